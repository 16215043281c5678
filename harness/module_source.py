"""A user's own ``torch.nn.Module`` as a model file, by the standard exporters.

``package.module:function`` or ``path/to/file.py:function`` names a function without arguments that returns
the module and an example of its inputs: ``(module, tensor)`` or ``(module, (tensor, ...))``.  Shapes, types
and the batch are the example's.  ONNX files come from ``torch.onnx.export``, TFLite files from the package
``litert-torch``; both are compared with the module on the example.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _ort
from torch import Tensor, nn

from results.errors import ConfigError
from search.user_code import blamed

TOLERANCE = 1e-3
"""Largest difference from PyTorch's outputs, as a share of the largest; any operators may be in there."""

_REFUSALS = tuple(e for e in vars(_ort).values() if isinstance(e, type) and issubclass(e, Exception))
_LITERT = "litert_torch"


def exported(text: str, file_format: str) -> bytes:
    """The file of the module that a function returns.

    Args:
        text: ``module:function`` or ``file.py:function``; the code is executed.
        file_format: ``onnx`` or ``tflite``.

    Raises:
        ConfigError: If the function cannot be found, raises, returns something else, or its module cannot be
            exported; the message quotes what was raised.
    """
    place, _, name = text.rpartition(":")
    module, example = _returned(_imported(place), name, text)
    with torch.inference_mode(), blamed(f"{text}: the module does not take its example", ConfigError):
        expected = module(*example)
    write, run = (_litert, _by_litert) if file_format == "tflite" else (_onnx, _by_onnxruntime)
    data = write(module, example, text)
    _compare(run(data, example, text), expected, text)
    return data


def _imported(place: str) -> ModuleType:
    path = Path(place).expanduser()
    with blamed(f"{place}: cannot be imported", ConfigError):
        if path.suffix != ".py":
            sys.path.insert(0, str(Path.cwd()))
            try:
                return importlib.import_module(place)
            finally:
                sys.path.remove(str(Path.cwd()))
        spec = importlib.util.spec_from_file_location(f"boardwise_model_{path.stem}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"{place}: no such Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
        spec.loader.exec_module(module)
    return module


def _returned(place: ModuleType, name: str, text: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    function = getattr(place, name, None)
    if not callable(function):
        raise ConfigError(f"{text}: {place.__name__} has no function {name!r}")
    with blamed(f"{text} raised", ConfigError):
        found = function()
    wanted = f"{text} is to return (module, example): an nn.Module and a tensor or a tuple of tensors"
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], nn.Module):
        raise ConfigError(f"{wanted}; it returned a {type(found).__name__}")
    example = found[1] if isinstance(found[1], tuple) else (found[1],)
    if not example or not all(isinstance(each, Tensor) for each in example):
        raise ConfigError(f"{wanted}; the example holds {', '.join(type(e).__name__ for e in example)}")
    return found[0].eval().cpu(), tuple(each.cpu() for each in example)


def _onnx(module: nn.Module, example: tuple[Tensor, ...], text: str) -> bytes:
    """By PyTorch's current exporter where ``onnxscript`` is installed, else by the older one."""
    options: dict[str, Any] = {"dynamo": False, "opset_version": 17}
    if importlib.util.find_spec("onnxscript") is not None:
        options = {"dynamo": True, "opset_version": 18, "external_data": False}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # about what it skips, opsets and its own future
    try:
        with (
            blamed(f"{text}: torch.onnx.export failed", ConfigError),
            tempfile.TemporaryDirectory() as folder,
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.onnx"
            torch.onnx.export(module, example, path, verbose=False, **options)
            return path.read_bytes()
    finally:
        logging.disable(level)


def _litert(module: nn.Module, example: tuple[Tensor, ...], text: str) -> bytes:
    if importlib.util.find_spec(_LITERT) is None:
        raise ConfigError(
            f"{text}: a TFLite file of a module of your own needs the package litert-torch "
            "(pip install litert-torch); --format onnx needs nothing more"
        )
    litert = importlib.import_module(_LITERT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        with blamed(f"{text}: litert-torch failed", ConfigError):
            litert.convert(module, example).export(str(path))
        return path.read_bytes()


def _by_onnxruntime(data: bytes, example: tuple[Tensor, ...], text: str) -> NDArray[Any]:
    """The first output of an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        given = {i.name: x.numpy() for i, x in zip(session.get_inputs(), example, strict=False)}
        return np.asarray(session.run(None, given)[0])
    except _REFUSALS as error:
        raise ConfigError(f"{text}: ONNX Runtime does not run the file: {error}") from error


def _by_litert(data: bytes, example: tuple[Tensor, ...], text: str) -> NDArray[Any]:
    """The first output of a TFLite file; litert-torch numbers inputs and outputs in their order."""
    try:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        inputs = sorted(interpreter.get_input_details(), key=_number)
        for detail, x in zip(inputs, example, strict=False):
            interpreter.set_tensor(detail["index"], x.numpy().astype(detail["dtype"]))
        interpreter.invoke()
        first = min(interpreter.get_output_details(), key=_number)
        return np.asarray(interpreter.get_tensor(first["index"]))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{text}: LiteRT does not run the file: {error}") from error


def _number(detail: dict[str, Any]) -> int:
    """The last number in the name of a tensor, such as 3 in ``serving_default_args_3:0``."""
    return int((re.findall(r"\d+", detail["name"].rpartition(":")[0] or detail["name"]) or [0])[-1])


def _compare(output: NDArray[Any], expected: Any, text: str) -> None:
    """Raises ConfigError unless the file computes what the module does, as far as it returns tensors."""
    first = expected[0] if isinstance(expected, tuple | list) else expected
    if not isinstance(first, Tensor):
        return
    reference = first.detach().numpy().astype(np.float64)
    if output.shape != reference.shape:
        raise ConfigError(f"{text}: the file gives shape {output.shape}, the module {reference.shape}")
    difference = np.abs(output - reference).max(initial=0)
    if not difference <= TOLERANCE * np.abs(reference).max(initial=0) + 1e-6:
        raise ConfigError(
            f"{text}: the file gives other numbers than the module, by up to {difference:.3g}; "
            "is it in training mode inside, or random?"
        )
