"""Reads lists of options from a study's ``[space]`` table, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results.errors import unknown_name
from results.records import Option
from results.settings import Settings


def whole_numbers(table: Settings, key: str, default: Sequence[int], low: int = 1) -> tuple[int, ...]:
    """Different whole numbers from ``low``, in ascending order."""
    values = _list(table, key, default, int)
    if min(values) < low:
        raise table.error(key, f"must be at least {low}, got {min(values)}")
    return tuple(sorted(values))


def kernels(table: Settings, key: str, default: Sequence[int]) -> tuple[int, ...]:
    """Different odd edges of kernels, in ascending order."""
    values = whole_numbers(table, key, default)
    even = [kernel for kernel in values if kernel % 2 == 0]
    if even:
        raise table.error(key, f"must be odd, so that they have a middle, got {even[0]}")
    return values


def names(table: Settings, key: str, known: Sequence[str]) -> tuple[Any, ...]:
    """Different names of those that are known, which are the default, in the order of the table."""
    values = _list(table, key, known, str)
    for value in values:
        if value not in known:
            raise table.error(key, unknown_name("name", value, known))
    return values


def flags(table: Settings, key: str, default: Sequence[bool] = (False, True)) -> tuple[bool, ...]:
    """Both of false and true, or one of them."""
    return _list(table, key, default, bool)


def _list(table: Settings, key: str, default: Sequence[Option], kind: type) -> tuple[Any, ...]:
    values = table.take(key, list, list(default))
    if not values or len(set(map(repr, values))) != len(values) or any(type(v) is not kind for v in values):
        name = {int: "whole numbers", str: "names", bool: "true and false"}[kind]
        raise table.error(key, f"must be a list of {name}, each once and at least one, got {values!r}")
    return tuple(values)
