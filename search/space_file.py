"""A space of the user's own: one Python file with a class ``Space`` in it (docs/own-space.md)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from results.errors import ArchitectureError, BoardwiseError, ConfigError
from search.network import Network
from search.space import SearchSpace
from search.task_file import executed, last_lines

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
    construct = _blamed(kind.__init__, f"{path}: Space()", ConfigError)
    build = _network(_blamed(kind.build, f"{path}: build()", ArchitectureError), path)
    return type("Space", (kind,), {"__init__": construct, "build": build, "__module__": kind.__module__})


def _blamed(function: Callable[P, T], what: str, error_kind: type[BoardwiseError]) -> Callable[P, T]:
    """The function, with what the user's code raises made one of our errors."""

    @functools.wraps(function)
    def blamed(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BoardwiseError:
            raise
        except Exception as error:
            raise error_kind(f"{what} raised:\n{last_lines(error)}") from error

    return blamed


def _network(build: Callable[P, Any], path: Path) -> Callable[P, Network]:
    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Network:
        network = build(*args, **kwargs)
        if not isinstance(network, Network):
            found = type(network).__name__
            raise ArchitectureError(f"{path}: build() is to return a search.network.Network, not a {found}")
        return network

    return checked
