"""Records to JSON values and back, validated against the annotations of the record types.

Written here rather than taken from a library because the types are the documentation of the store,
and because nothing that comes from a board or a file may build anything but plain values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from results.errors import ConfigError, StoreError

T = TypeVar("T")


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def to_json(value: Any) -> Any:
    """A JSON value for a record: dataclasses become objects, tuples become arrays.

    Raises:
        StoreError: For a value that has no JSON form (a NaN among them).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise StoreError(f"{value} cannot be stored; only finite numbers can")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise StoreError(f"a {type(value).__name__} cannot be stored")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def from_json(kind: type[T], data: Any) -> T:
    """The record that :func:`to_json` made, validated against the annotations of ``kind``.

    Raises:
        StoreError: If ``data`` does not have the shape of ``kind``; the message names the field.
    """
    return typing.cast(T, _read(kind, data, kind.__name__))


def read_as(kind: Any, data: Any, where: str) -> Any:
    """A JSON value as an annotation says, such as ``tuple[float, ...]``.

    Raises:
        StoreError: If it is something else; the message names ``where``.
    """
    return _read(kind, data, where)


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _read_record(typing.cast(type, kind), data, where)
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(kind), data, where)
    if origin is tuple:
        return _read_tuple(typing.get_args(kind), data, where)
    if origin is Literal:
        return _expect(data in typing.get_args(kind), data, where, str(kind))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        item = typing.get_args(kind)[1]
        _expect(isinstance(data, Mapping), data, where, "an object")
        return {k: _read(item, v, f"{where}.{k}") for k, v in data.items()}
    return _read_plain(kind, data, where)


def _read_plain(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if kind in (None, type(None)):
        return _expect(data is None, data, where, "null")
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        # Compared as it is: an integer beyond the floats' range cannot be converted.
        return float(_expect(abs(data) <= sys.float_info.max, data, where, "a finite number"))
    if kind is int and isinstance(data, bool):
        _expect(False, data, where, "a number")
    return _expect(isinstance(data, kind), data, where, kind.__name__)


def _read_record(kind: type, data: Any, where: str) -> Any:
    _expect(isinstance(data, Mapping), data, where, "an object")
    hints = _hints(kind)
    unknown = sorted(set(data) - set(hints))
    _expect(not unknown, unknown, where, f"only the fields of {kind.__name__}")
    values = {name: _read(hints[name], data[name], f"{where}.{name}") for name in hints if name in data}
    try:
        return kind(**values)
    except (TypeError, ValueError, ConfigError) as error:
        raise StoreError(f"{where}: {error}") from error


def _read_union(kinds: Sequence[Any], data: Any, where: str) -> Any:
    # bool before int, int before float: JSON keeps them apart and so do we.
    for kind in sorted(kinds, key=lambda k: (k is float, k is int)):
        try:
            return _read(kind, data, where)
        except StoreError:
            continue
    return _expect(False, data, where, " or ".join(str(k) for k in kinds))


def _read_tuple(kinds: Sequence[Any], data: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(data, (list, tuple)), data, where, "an array")
    if kinds == (float, ...) and all(type(v) is float for v in data) and all(map(math.isfinite, data)):
        return tuple(data)  # samples, by the thousand
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_read(kinds[0], v, f"{where}[{i}]") for i, v in enumerate(data))
    _expect(len(data) == len(kinds), data, where, f"{len(kinds)} items")
    return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, data, strict=True)))


def _expect(holds: bool, data: Any, where: str, wanted: str) -> Any:
    if not holds:
        raise StoreError(f"{where}: expected {wanted}, got {str(data)[:80]!r}")
    return data
