"""TFLite files, written straight from the layer graph (:mod:`harness.tflite_graph`).

One input ``"input"`` in NHWC, one output ``"logits"``, both float32 unless integers are asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from harness.file_metadata import NONE, Metadata, with_layout
from harness.folding import Weights, fold
from harness.quantization import Calibration, as_convolutions, quantize
from harness.tflite_file import IDENTIFIER
from harness.tflite_graph import TfliteGraph
from results.errors import ConfigError, ExportError, RuntimeRefused
from search.network import Network

FILE_FORMAT = "tflite"
PRECISIONS = ("fp32", "fp16", "int8")


def write(
    network: Network,
    weights: Weights,
    *,
    precision: str = "fp32",
    calibration: Calibration | None = None,
    batch: int = 1,
    metadata: Metadata = NONE,
) -> bytes:
    """The file of a network with its weights; equal arguments give equal bytes.

    Raises:
        ExportError: If the weights do not fit, are not finite, or cannot be written in this precision.
    """
    operations = fold(network, weights)
    quantization, integer_io = None, False
    if calibration is not None:
        operations = as_convolutions(operations)
        quantization, integer_io = quantize(operations, calibration.ranges), calibration.integer_io
    return TfliteGraph(
        operations,
        network.input_shape,
        batch,
        half=precision == "fp16",
        quantization=quantization,
        integer_io=integer_io,
    ).pack(with_layout(metadata, "NHWC"))


def check(data: bytes) -> None:
    """Loads a file into the TFLite interpreter and lets it prepare every operator.

    Raises:
        ExportError: If it is no TFLite file or the interpreter does not take it.
    """
    artifact = hashlib.sha256(data).hexdigest()
    if data[4:8] != IDENTIFIER:
        raise ExportError(artifact, f"no TFLite file: its identifier is {data[4:8]!r}, not {IDENTIFIER!r}")
    try:
        _interpreter(data)
    except (ValueError, RuntimeError) as error:
        raise ExportError(artifact, f"the TFLite interpreter refuses it: {error}") from error


def run(data: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits ``(n, classes)`` that the TFLite interpreter computes on one CPU thread of this host.

    Args:
        data: The file.
        images: Shape ``(n, channels, height, width)``, n a multiple of the file's batch.

    Raises:
        ConfigError: If the images do not fill batches.
        RuntimeRefused: If the interpreter does not load or run the file.
    """
    try:
        interpreter = _interpreter(data)
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        batch = int(source["shape"][0])
        if len(images) % batch:
            raise ConfigError(f"{len(images)} images do not fill batches of {batch}")
        outputs = []
        for block in channels_last(images).reshape(-1, *source["shape"]):
            interpreter.set_tensor(source["index"], to_tensor(block, source))
            interpreter.invoke()
            outputs.append(from_tensor(interpreter.get_tensor(result["index"]), result))
    except (ValueError, RuntimeError) as error:
        raise RuntimeRefused(hashlib.sha256(data).hexdigest(), f"TFLite: {error}") from error
    return channels_first(np.concatenate(outputs))


def to_tensor(values: NDArray[np.float32], details: Mapping[str, Any]) -> NDArray[Any]:
    """Numbers as a file's input takes them: as they are, or rounded to its integers."""
    if details["dtype"] == np.float32:
        return values
    scale, zero_point = details["quantization"]
    integers: NDArray[np.int8] = np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)
    return integers


def from_tensor(values: NDArray[Any], details: Mapping[str, Any]) -> NDArray[np.float32]:
    """The numbers that a file's output stands for."""
    if details["dtype"] == np.float32:
        return values
    scale, zero_point = details["quantization"]
    numbers: NDArray[np.float32] = (values.astype(np.float32) - zero_point) * np.float32(scale)
    return numbers


def channels_last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(n, c, h, w)`` as ``(n, h, w, c)``, contiguous."""
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def channels_first(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(n, h, w, c)`` as ``(n, c, h, w)``, contiguous; vectors as they are."""
    return np.ascontiguousarray(np.moveaxis(images, -1, 1) if images.ndim == 4 else images)


def _interpreter(data: bytes) -> Interpreter:
    global _announced
    with _lock:
        quiet: AbstractContextManager[None] = nullcontext() if _announced else _without_stderr()
        _announced = True
    with quiet:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


# The first interpreter of a process prints a line about XNNPACK that no option turns off.
_lock, _announced = Lock(), False


@contextmanager
def _without_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
