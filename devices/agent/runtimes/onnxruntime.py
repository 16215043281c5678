"""ONNX Runtime with one of its execution providers.

A provider that the build lacks, or that runs nothing of a file, is an error: ONNX Runtime itself would only
warn and let the CPU do the work, under the other one's name.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
import time
from typing import Any, Dict, List, Mapping, Sequence

from ..arrays import Tensor, random_arrays, whole
from ..failures import Failure
from ..options import Choice, Count

PACKAGES = (("onnxruntime", "onnxruntime"),)
CPU, XNNPACK = "CPUExecutionProvider", "XnnpackExecutionProvider"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
OPTIONS = {
    "threads": Count(1, 256),
    "optimization": Choice("all", ("all", "extended", "basic", "none")),
    "provider": Choice(CPU, (CPU, XNNPACK, CUDA, TENSORRT)),
}
BUILT = "built.json"
"""Beside the engines of a file: how long they took to build [s]."""
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
ELEMENTS = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{
        "tensor(%s%d)" % (sign, bits): "%s%d" % (sign, bits)
        for sign in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}


def load(module: str) -> Any:
    """Imports ONNX Runtime and silences its log, which is not where its errors are, and its telemetry."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else 1.32 leaves files in ~/.cache/Microsoft, and a thread
    library = importlib.import_module(module)
    library.set_default_logger_severity(4)
    return library


def open_model(library: Any, path: str, options: Mapping[str, Any]) -> Model:
    """Loads a file with ``threads`` intra-op threads and one inter-op thread."""
    settings = _settings(library, options)
    session = _session(library, path, options, settings)
    return Model(session, options["provider"], _built(library, path, options))


def build(library: Any, path: str, options: Mapping[str, Any]) -> None:
    """Has TensorRT compile its engines of a file, once per file, board and version of ONNX Runtime."""
    if options["provider"] != TENSORRT:
        return
    folder = _engines(library, path)
    if os.path.exists(os.path.join(folder, BUILT)):
        return
    _forget_others(os.path.dirname(folder), path)
    os.makedirs(folder, exist_ok=True)
    started = time.monotonic()
    model = Model(_session(library, path, options, _settings(library, options)), TENSORRT)
    model.set_inputs(random_arrays(model.inputs, 0))
    model.invoke()
    with open(os.path.join(folder, BUILT), "w", encoding="utf-8") as file:
        json.dump({"build_s": time.monotonic() - started}, file)


def placement(library: Any, path: str, options: Mapping[str, Any]) -> Dict[str, int]:
    """Nodes per execution provider, from ONNX Runtime's own profile of one run."""
    settings = _settings(library, options)
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = os.path.join(folder, "profile")
        session = _session(library, path, options, settings)
        model = Model(session, options["provider"])
        model.set_inputs(random_arrays(model.inputs, 0))
        model.invoke()
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    ran = {
        e["name"]: e["args"]["provider"] for e in events if e.get("cat") == "Node" and "provider" in e["args"]
    }
    found: Dict[str, int] = {}
    for name in sorted(ran):
        found[ran[name]] = found.get(ran[name], 0) + 1
    wanted = options["provider"]
    if wanted not in found:
        raise Failure("refused", "%s runs none of its nodes; %s would run all" % (wanted, ", ".join(found)))
    return found


def _session(library: Any, path: str, options: Mapping[str, Any], settings: Any) -> Any:
    wanted, known = options["provider"], library.get_available_providers()
    if wanted not in known:
        message = "this board's onnxruntime %s has no %s; it has %s"
        raise Failure("bad_option", message % (library.__version__, wanted, ", ".join(known)))
    own: Dict[str, Any] = {}
    if options["provider"] == XNNPACK:
        # It has threads of its own; the others would only get in their way.
        own["intra_op_num_threads"] = str(options["threads"])
        settings.intra_op_num_threads = 1
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif options["provider"] == TENSORRT:
        own = {"trt_engine_cache_enable": True, "trt_engine_cache_path": _engines(library, path)}
    providers = [(wanted, own)] if wanted == CPU else [(wanted, own), (CPU, {})]
    return library.InferenceSession(path, settings, providers=providers)


def _engines(library: Any, path: str) -> str:
    """Where the engines of a file lie: beside the folder of files, by the file's name, which is its hash."""
    files, name = os.path.split(path)
    return os.path.join(os.path.dirname(files), "engines", "%s-%s" % (name, library.__version__))


def _forget_others(parent: str, path: str) -> None:
    """Removes engines of files that the board does not keep any more."""
    if os.path.isdir(parent):
        kept = set(os.listdir(os.path.dirname(path)))
        for name in os.listdir(parent):
            if name.partition("-")[0] not in kept:
                shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _built(library: Any, path: str, options: Mapping[str, Any]) -> str:
    """What the provider's name says of its engines; nothing for a provider that has none."""
    if options["provider"] != TENSORRT:
        return ""
    with open(os.path.join(_engines(library, path), BUILT), encoding="utf-8") as file:
        return " (engines built in %.1f s)" % json.load(file)["build_s"]


def _settings(library: Any, options: Mapping[str, Any]) -> Any:
    settings = library.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    # x86 without VNNI cuts off sums of 8-bit products; this makes it compute them, 15 % slower.
    settings.add_session_config_entry("session.x64quantprecision", "1")
    settings.graph_optimization_level = getattr(
        library.GraphOptimizationLevel, LEVELS[options["optimization"]]
    )
    return settings


class Model:
    """A loaded ONNX file.

    Raises:
        Failure: ``refused`` if another provider than the one asked for would run it.
    """

    def __init__(self, session: Any, provider: str, note: str = "") -> None:
        self._session = session
        found = session.get_providers()
        self.provider = ", ".join(found) + note
        # A provider that cannot start only warns and falls back; a figure must not have another one's name.
        if found[0] != provider:
            raise Failure("refused", "asked for %s, got %s" % (provider, ", ".join(found)))
        self.inputs = whole([_tensor(node) for node in session.get_inputs()])
        self._outputs: List[str] = [node.name for node in session.get_outputs()]
        self._feed: Dict[str, Any] = {}
        self._results: List[Any] = []

    def set_inputs(self, arrays: Sequence[Any]) -> None:
        """Arrays in the order of ``inputs``."""
        self._feed = {tensor.name: array for tensor, array in zip(self.inputs, arrays)}

    def invoke(self) -> None:
        """One inference."""
        self._results = self._session.run(self._outputs, self._feed)

    def outputs(self) -> List[Any]:
        """What the last inference gave."""
        return self._results


def _tensor(node: Any) -> Tensor:
    if node.type not in ELEMENTS:
        raise Failure("refused", "input %r is a %s, which cannot be filled" % (node.name, node.type))
    shape = [size if isinstance(size, int) and size >= 0 else None for size in node.shape]
    return Tensor(node.name, ELEMENTS[node.type], shape)
