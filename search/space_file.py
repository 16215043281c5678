"""A space of the user's own: one Python file with a class ``Space`` in it (docs/own-space.md)."""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from results.errors import ArchitectureError, BoardwiseError, ConfigError
from results.records import Architecture
from search.network import Network
from search.space import SearchSpace
from search.task_file import executed
from search.user_code import blamed

P = ParamSpec("P")
T = TypeVar("T")


def space_file(path: Path) -> type[SearchSpace]:
    """The class ``Space`` that a Python file defines, whose own errors name the file.

    Args:
        path: The file; it is executed.

    Raises:
        ConfigError: If there is no such file, or no usable class in it.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; the name of a space is a path relative to the study's file")
    kind = getattr(executed(path, ConfigError), "Space", None)
    if not (isinstance(kind, type) and issubclass(kind, SearchSpace)):
        raise ConfigError(f"{path}: defines no class Space that is a search.space.SearchSpace")
    if inspect.isabstract(kind):
        raise ConfigError(
            f"{path}: its Space does not define {', '.join(sorted(kind.__abstractmethods__))}()"
        )
    return guarded(kind, str(path))


def guarded(kind: type[SearchSpace], where: str) -> type[SearchSpace]:
    """The class, with what its own code raises, or wrongly returns, made errors of ours that name it.

    What ``build`` does wrong ends the candidate; anything else would be wrong for all, and ends the command.

    Args:
        kind: A class that the user wrote.
        where: Its file or name.
    """
    methods: dict[str, Any] = {
        "__init__": _blamed(kind.__init__, f"{where}: Space() raised", ConfigError),
        "build": _building(kind.build, f"{where}: build()"),
        "__module__": kind.__module__,
    }
    if kind.canonical is not SearchSpace.canonical:
        methods["canonical"] = _choosing(kind.canonical, f"{where}: canonical()")
    for name in ("features", "structure"):
        if getattr(kind, name) is not getattr(SearchSpace, name):
            methods[name] = _describing(getattr(kind, name), f"{where}: {name}()")
    return type("Space", (kind,), methods)


def _blamed(function: Callable[P, T], what: str, error_kind: type[BoardwiseError]) -> Callable[P, T]:
    """The function, with what the user's code raises made one of our errors."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        with blamed(what, error_kind):
            return function(*args, **kwargs)

    return called


def _building(build: Callable[P, Any], what: str) -> Callable[P, Network]:
    """What gives a network, or the candidate's error."""

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Network:
        try:
            network = _blamed(build, f"{what} raised", ArchitectureError)(*args, **kwargs)
        except ConfigError as error:  # a Decision, say, that it made of what it should not
            raise ArchitectureError(f"{what} raised: {error}") from error
        if not isinstance(network, Network):
            found = type(network).__name__
            raise ArchitectureError(f"{what} is to return a search.network.Network, not a {found}")
        return network

    return checked


def _choosing(canonical: Callable[..., Any], what: str) -> Callable[..., tuple[int, ...]]:
    """What gives option numbers that stand for themselves."""
    canonical = _blamed(canonical, f"{what} raised", ConfigError)

    @functools.wraps(canonical)
    def checked(self: SearchSpace, choices: tuple[int, ...]) -> tuple[int, ...]:
        found = canonical(self, choices)
        fits = isinstance(found, tuple) and len(found) == len(choices)
        limits = [len(decision.options) for decision in self.decisions]
        if not fits or not all(
            isinstance(c, int | np.integer) and 0 <= c < n for c, n in zip(found, limits, strict=True)
        ):
            wanted = f"a tuple of {len(choices)} option numbers"
            raise ConfigError(f"{what} is to return {wanted}; of {choices} it made {reprlib.repr(found)}")
        numbers = tuple(int(c) for c in found)
        if numbers != choices and canonical(self, numbers) != numbers:
            raise ConfigError(
                f"{what} is to return what stands for itself; of {choices} it made {numbers}, "
                f"and of that {reprlib.repr(canonical(self, numbers))}"
            )
        return numbers

    return checked


def _describing(describe: Callable[..., Any], what: str) -> Callable[..., NDArray[np.float64]]:
    """What gives numbers, as many of each architecture."""
    describe = _blamed(describe, f"{what} raised", ConfigError)
    lengths: WeakKeyDictionary[SearchSpace, int] = WeakKeyDictionary()

    @functools.wraps(describe)
    def checked(self: SearchSpace, architecture: Architecture) -> NDArray[np.float64]:
        found = describe(self, architecture)
        with blamed(f"{what} is to return numbers, an array of one dimension", ConfigError):
            row = np.asarray(found, np.float64)
        if row.ndim != 1 or not np.isfinite(row).all():
            raise ConfigError(
                f"{what} is to return numbers, all of them finite, in one dimension; it returned "
                f"{reprlib.repr(found)} of {architecture.choices}"
            )
        length = lengths.setdefault(self, len(row))
        if len(row) != length:
            raise ConfigError(
                f"{what} is to return as many numbers of each architecture; it returned {length}, and now "
                f"{len(row)} of {architecture.choices}"
            )
        return row

    return checked
