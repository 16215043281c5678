"""Arrays for models: what a file declares, how its inputs are filled, how arrays travel.

numpy comes with every runtime and is imported only where one has been loaded.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .failures import Failure

FLOATS = ("float16", "float32", "float64")
WIDE = ("int16", "int32", "int64", "uint16", "uint32", "uint64")
ELEMENTS = (*FLOATS, *WIDE, "int8", "uint8", "bool")


class Tensor(NamedTuple):
    """An input as a file declares it; None in ``shape`` is a size that the file leaves open."""

    name: str
    dtype: str
    shape: List[Optional[int]]


def whole(declared: Sequence[Tensor]) -> List[Tensor]:
    """The inputs, if the file fixes all their sizes.

    Raises:
        Failure: ``refused`` if it leaves one open.
    """
    for tensor in declared:
        if None in tensor.shape:
            example = "%s=%s" % (tensor.name, ",".join(str(size or 1) for size in tensor.shape))
            message = "input %s leaves sizes open: %s; fix them, as with --shape %s"
            raise Failure("refused", message % (tensor.name, _text(tensor.shape), example))
    return list(declared)


def random_arrays(tensors: Sequence[Tensor], seed: int) -> List[Any]:
    """Inputs to measure with: standard normal floats, 8-bit integers over their whole range, else 0 or 1.

    Wider integers are mostly indices and lengths, for which 0 and 1 are always allowed.
    """
    import numpy

    rng = numpy.random.default_rng(seed)
    return [_random(numpy, rng, tensor) for tensor in tensors]


def _random(numpy: Any, rng: Any, tensor: Tensor) -> Any:
    if tensor.dtype in FLOATS:
        return rng.standard_normal(tensor.shape).astype(tensor.dtype)
    if tensor.dtype in ("int8", "uint8"):
        limits = numpy.iinfo(tensor.dtype)
        return rng.integers(limits.min, limits.max, size=tensor.shape, endpoint=True, dtype=tensor.dtype)
    if tensor.dtype not in ELEMENTS:
        raise Failure("refused", "input %s is of %s, which cannot be filled" % (tensor.name, tensor.dtype))
    return rng.integers(0, 2, size=tensor.shape).astype(tensor.dtype)


def pack(arrays: Sequence[Any]) -> Tuple[List[Dict[str, Any]], bytes]:
    """Arrays as descriptions for a header and bytes for a payload, little-endian, in C order."""
    import numpy

    values = [numpy.asarray(array) for array in arrays]
    described = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in values]
    return described, b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in values)


def unpack(described: Sequence[Mapping[str, Any]], payload: bytes) -> List[Any]:
    """The arrays that :func:`pack` took.

    Raises:
        ValueError: If the payload has another length, a description is malformed, or a type unknown.
    """
    import numpy

    arrays, start = [], 0
    for entry in described:
        shape = [int(size) for size in entry["shape"]]
        if entry["dtype"] not in ELEMENTS or min(shape, default=0) < 0:
            raise ValueError("not an array: %.80r" % (entry,))
        dtype = numpy.dtype(entry["dtype"])
        count = 1
        for size in shape:
            count *= size
        end = start + count * dtype.itemsize
        if end > len(payload):
            break
        flat = numpy.frombuffer(payload, dtype.newbyteorder("<"), count, start)
        arrays.append(flat.astype(dtype).reshape(shape))
        start = end
    if len(arrays) != len(described) or start != len(payload):
        raise ValueError("%d arrays do not fill %d bytes" % (len(described), len(payload)))
    return arrays


def _text(shape: Sequence[Optional[int]]) -> str:
    return "(%s)" % ", ".join("?" if size is None else str(size) for size in shape)
