"""A user's own model as an artifact: looked at before a board is, so that mistakes are told early.

Nothing is run here.  What cannot be read is a :class:`ConfigError` that names the file and the remedy;
what only a runtime can tell (an operator that it lacks) is told by the runtime on the board.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import onnx_source, tflite_source
from harness.model_inputs import Input, Shapes
from results.errors import ConfigError, UsageError, unknown_name
from results.records import Artifact

LARGEST_BYTES = 2**31 - 1
"""Greatest size of a protobuf message and of a flatbuffer."""

_READERS = {".onnx": onnx_source.read, ".tflite": tflite_source.read}
_FUNCTION = re.compile(r"^.+:[A-Za-z_]\w*$")
_GIT_LFS = b"version https://git-lfs"


@dataclass(frozen=True, eq=False)
class Source:
    """A user's file.

    Attributes:
        path: Where it was read.
        artifact: Its record; ``graph`` and ``weights`` are told apart for ONNX only.
        data: What is sent to boards: the file with its inputs' shapes fixed and its weights inside.
        inputs: What it takes, in order.
    """

    path: Path
    artifact: Artifact
    data: bytes
    inputs: tuple[Input, ...]


def source(text: str, shapes: Shapes | None = None, file_format: str = "onnx") -> Source:
    """Reads a ``.onnx`` or ``.tflite`` file, or exports a module of the user's own.

    Args:
        text: Path of a file, or ``module:function`` (:mod:`harness.module_source`).
        shapes: Shapes for inputs by name, for dimensions that the file leaves open.
        file_format: Format of the file that is made of a module.

    Raises:
        ConfigError: If the file is missing, empty, too large, of another kind, damaged, lacks its
            external data, needs operators that no runtime here has, or leaves a dimension open that
            ``shapes`` does not fix; if a function does not give a module that can be exported.
    """
    if _FUNCTION.search(text) and not Path(text).exists():
        from harness import module_source  # imports torch, which files do not need

        path, data = (
            Path(f"{text.rpartition(':')[2]}.{file_format}"),
            module_source.exported(text, file_format),
        )
    else:
        path = Path(text).expanduser()
        if path.suffix.lower() not in _READERS:
            known = unknown_name("kind of model file", path.suffix, _READERS)
            raise ConfigError(f"{text}: {known}; or name a function: module:function")
        data = _content(path)
    suffix = path.suffix.lower()
    reading = _READERS[suffix](data, path, {} if shapes is None else shapes)
    sha256 = hashlib.sha256(reading.data).hexdigest()
    artifact = Artifact(
        sha256=sha256,
        graph=reading.graph or sha256,
        weights=reading.weights,
        file_format=suffix[1:],
        precision=reading.precision,
        size_bytes=len(reading.data),
    )
    return Source(path, artifact, reading.data, reading.inputs)


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from texts such as ``images=1,3,224,224``.

    Raises:
        UsageError: If one cannot be understood or an input comes twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        # Names may hold "=" and, in TFLite, ":"; sizes hold neither.
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError as error:
            raise UsageError(f"--shape {text!r}: write it like 'images=1,3,224,224'") from error
        if not name or min(shape) < 1:
            raise UsageError(f"--shape {text!r}: write it like 'images=1,3,224,224', sizes of 1 or more")
        if name in shapes:
            raise UsageError(f"--shape: {name!r} is given twice")
        shapes[name] = shape
    return shapes


def _content(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > LARGEST_BYTES:
            raise ConfigError(f"{path} has {size_bytes} bytes; a model file can have {LARGEST_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise ConfigError(f"{path} is empty")
    if data.startswith(_GIT_LFS):
        raise ConfigError(f"{path} is only a pointer of Git LFS; fetch the file itself with 'git lfs pull'")
    return data
