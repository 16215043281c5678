"""ONNX Runtime, its CPU execution provider."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from typing import Any, Dict, List, Mapping, Sequence

from ..arrays import Tensor, random_arrays, whole
from ..failures import Failure
from ..options import Choice, Count

PACKAGES = (("onnxruntime", "onnxruntime"),)
OPTIONS = {
    "threads": Count(1, 256),
    "optimization": Choice("all", ("all", "extended", "basic", "none")),
}
PROVIDERS = ["CPUExecutionProvider"]
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
    """Imports ONNX Runtime and silences its log, which is not where its errors are."""
    library = importlib.import_module(module)
    library.set_default_logger_severity(4)
    return library


def open_model(library: Any, path: str, options: Mapping[str, Any]) -> Model:
    """Loads a file with ``threads`` intra-op threads and one inter-op thread."""
    return Model(library.InferenceSession(path, _settings(library, options), providers=PROVIDERS))


def placement(library: Any, path: str, options: Mapping[str, Any]) -> Dict[str, int]:
    """Nodes per execution provider, from ONNX Runtime's own profile of one run."""
    settings = _settings(library, options)
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = os.path.join(folder, "profile")
        session = library.InferenceSession(path, settings, providers=PROVIDERS)
        model = Model(session)
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
    return found


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

    def __init__(self, session: Any) -> None:
        self._session = session
        self.provider = ", ".join(session.get_providers())
        # A provider that is missing only warns and falls back; a figure must not have another one's name.
        if session.get_providers() != PROVIDERS:
            raise Failure("refused", "asked for %s, got %s" % (", ".join(PROVIDERS), self.provider))
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
