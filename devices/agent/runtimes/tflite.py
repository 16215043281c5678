"""TensorFlow Lite, from whichever package the board has: ai-edge-litert or the older tflite-runtime.

An external delegate (an Edge TPU's, an NPU's) is a shared library on the board, named by its path.  It takes
what operators it can, and the built-in kernels run the rest, without XNNPACK: so what a delegate took can be
told.  One that takes nothing is an error, or the CPU's time would have the delegate's name.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

from ..arrays import Tensor
from ..failures import Failure, describe
from ..options import Choice, Count, Text

PACKAGES = (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime"))
OPTIONS = {
    "threads": Count(1, 256),
    "xnnpack": Choice(True, (True, False)),
    "delegate": Text(""),
}


def load(module: str) -> Any:
    """Imports the interpreter.

    Raises:
        ImportError: If numpy is one that the package was not built for: it would be imported, and every
            file would then fail.
    """
    numpy = importlib.import_module("numpy")
    if module == "tflite_runtime" and int(numpy.__version__.split(".")[0]) >= 2:
        raise ImportError("tflite-runtime needs numpy < 2, and numpy is %s" % numpy.__version__)
    return importlib.import_module(module + ".interpreter")


def open_model(library: Any, path: str, options: Mapping[str, Any]) -> Model:
    """Loads a file and makes its tensors; sizes that it leaves open are those that it gives for a start."""
    return Model(_interpreter(library, path, options), _name(options))


def placement(library: Any, path: str, options: Mapping[str, Any]) -> Dict[str, int]:
    """Operators per delegate, and those that the built-in kernels run."""
    own, taken = _operators(_interpreter(library, path, options))
    found = {_name(options): len(taken), "built-in kernels": len(own) - len(taken)}
    return {name: count for name, count in found.items() if count}


def _interpreter(library: Any, path: str, options: Mapping[str, Any]) -> Any:
    more: Dict[str, Any] = {}
    if options["delegate"]:
        more["experimental_delegates"] = [_delegate(library, options["delegate"])]
    if options["delegate"] or not options["xnnpack"]:
        more["experimental_op_resolver_type"] = library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = library.Interpreter(model_path=path, num_threads=options["threads"], **more)
    interpreter.allocate_tensors()
    if options["delegate"] and not _operators(interpreter)[1]:
        raise Failure("refused", "%s takes none of its operators" % _name(options))
    return interpreter


def _delegate(library: Any, path: str) -> Any:
    if not os.path.isfile(path):
        raise Failure("bad_option", "delegate: the board has no file %.200r" % path)
    try:
        return library.load_delegate(path)
    except (AttributeError, OSError, ValueError) as error:
        message = "delegate: %.200r cannot be loaded as a TFLite delegate: %s"
        raise Failure("bad_option", message % (path, describe(error))) from error


def _name(options: Mapping[str, Any]) -> str:
    """Of what runs operators instead of the built-in kernels."""
    return str(options["delegate"]) or "XNNPACK"


class Model:
    """A loaded TFLite file."""

    def __init__(self, interpreter: Any, name: str = "XNNPACK") -> None:
        self._interpreter = interpreter
        self.inputs = [_tensor(detail) for detail in interpreter.get_input_details()]
        self.provider = _provider(interpreter, name)
        self.invoke = interpreter.invoke
        self._given = [detail["index"] for detail in interpreter.get_input_details()]
        self._wanted = [detail["index"] for detail in interpreter.get_output_details()]

    def set_inputs(self, arrays: Sequence[Any]) -> None:
        """Arrays in the order of ``inputs``."""
        for index, array in zip(self._given, arrays):
            self._interpreter.set_tensor(index, array)

    def outputs(self) -> List[Any]:
        """What the last inference gave."""
        return [self._interpreter.get_tensor(index) for index in self._wanted]


def _tensor(detail: Mapping[str, Any]) -> Tensor:
    return Tensor(detail["name"], _element(detail["dtype"]), [int(size) for size in detail["shape"]])


def _element(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _provider(interpreter: Any, name: str) -> str:
    own, taken = _operators(interpreter)
    if not taken:
        return "built-in kernels"
    return "%s (%d of %d operators)" % (name, len(taken), len(own))


def _operators(interpreter: Any) -> Tuple[List[Mapping[str, Any]], Set[int]]:
    """The file's operators, and numbers of those that a delegate took, as the interpreter lists them.

    The list has the file's own operators and, after them, one DELEGATE per group that a delegate runs
    instead.  The default delegate is XNNPACK, the only one in these packages; it is off beside
    an external one.
    """
    listed = interpreter._get_ops_details()
    own = [op for op in listed if op["op_name"] != "DELEGATE"]
    taken: Set[int] = set()
    for group in listed:
        if group["op_name"] == "DELEGATE":
            taken |= _replaced(own, group)
    return own, taken


def _replaced(own: Sequence[Mapping[str, Any]], group: Mapping[str, Any]) -> Set[int]:
    """Numbers of the operators between a group's inputs and its outputs."""
    maker = {int(tensor): op for op in own for tensor in op["outputs"]}
    known = {int(tensor) for tensor in group["inputs"]}
    open_tensors = [int(tensor) for tensor in group["outputs"]]
    found: Set[int] = set()
    while open_tensors:
        tensor = open_tensors.pop()
        if tensor in known or tensor not in maker:
            continue
        known.add(tensor)
        found.add(int(maker[tensor]["index"]))
        open_tensors += [int(before) for before in maker[tensor]["inputs"]]
    return found
