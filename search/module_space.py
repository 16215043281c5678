"""A space made of a user's own function that builds a ``torch.nn.Module`` (docs/own-space.md).

``[space] name = "my_models.py:build"``: every list among the other keys of the table is a decision, and each
trial calls ``build`` with one value of each.  What it returns becomes a layer graph
(:mod:`search.module_graph`), which is trained, exported and measured like every other network.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from results.errors import ArchitectureError, ConfigError, OutOfMemory, unknown_name
from results.records import Architecture, Option
from search import torch_state
from search.host_memory import require_room_for
from search.module_graph import network_of
from search.module_sizes import elements_of
from search.network import Network, Shape
from search.space import Decision, SearchSpace
from search.task_file import executed
from search.user_code import blamed, installed

_MAKERS = (
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.arange, torch.linspace),
    *(torch.rand, torch.randn, torch.randint),
)
"""Functions that make a tensor of a size; PyTorch's layers make their weights by the first."""

SEED = 0
"""Of the weights that the function draws; a search begins with weights of its own."""


def module_space(text: str) -> type[Any]:
    """The space of a function, as a class with the arguments of all spaces; see :class:`Space`."""

    class Named(Space):
        def __init__(self, *, input_shape: Shape, classes: int, **options: Any) -> None:
            super().__init__(text=text, input_shape=input_shape, classes=classes, **options)

    return Named


class Space(SearchSpace):
    """The modules that a function builds.

    Args:
        text: ``file.py:function`` or ``package.module:function``; the code is executed.
        input_shape: ``(channels, height, width)``; given to the function if it takes that.
        classes: Number of outputs; given to the function if it takes that.
        options: Its other arguments; a list is a choice.

    Raises:
        ConfigError: If there is no such function, or it does not take an option.
    """

    def __init__(self, *, text: str, input_shape: Shape, classes: int, **options: Any) -> None:
        self._text = text
        self._input_shape, self._classes = input_shape, classes
        self._function = _function(text)
        given = {"input_shape": input_shape, "classes": classes}
        taken = _parameters(self._function)
        for name in options:
            if taken is not None and name not in taken:
                raise ConfigError(f"[space] {text}: {unknown_name('argument', name, taken)}")
        self._fixed = {k: v for k, v in options.items() if not isinstance(v, list)}
        self._given = {k: v for k, v in given.items() if taken is None or k in taken}
        decisions = [_decision(name, v) for name, v in options.items() if isinstance(v, list)]
        self._chosen = tuple(decision.name for decision in decisions)
        self._built: dict[Architecture, Network] = {}
        settings = {"fixed": self._fixed, "input_shape": list(input_shape), "classes": classes}
        name = text.rpartition(":")[2]
        super().__init__(name, decisions or [Decision("module", (name,))], settings)

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """The layer graph of the module; see the base class.

        Raises:
            ArchitectureError: If the function raises or returns no module whose layers are known, for another
                width or resolution than the module's own, or as in the base class.
        """
        if width != 1.0 or resolution is not None:
            raise ArchitectureError(f"{self._text}: a module of your own has one width and resolution")
        with torch_state.LOCK:
            if architecture not in self._built:
                self._built[architecture] = self._network(self.describe(architecture))
            return self._built[architecture]

    def _network(self, options: dict[str, Option]) -> Network:
        chosen = {name: options[name] for name in self._chosen}
        module = self._module({**self._fixed, **chosen, **self._given})
        with blamed(f"{self._text}: its module raised", ArchitectureError):
            network = network_of(module, self._input_shape)
        if network.shapes[network.output] != (self._classes,):
            found = network.shapes[network.output]
            raise ArchitectureError(
                f"{self._text}: {self._classes} outputs are wanted, the module has {found}"
            )
        return network

    def _module(self, arguments: dict[str, Any]) -> nn.Module:
        with blamed(f"{self._text} raised", ArchitectureError), torch_state.seeded(SEED), _Room(self._text):
            found = self._function(**arguments)
        module = found[0] if isinstance(found, tuple) and found else found  # (module, example): as for bench
        if not isinstance(module, nn.Module):
            raise ArchitectureError(f"{self._text} is to return an nn.Module, not a {type(found).__name__}")
        return module


class _Room(TorchFunctionMode):
    """Ends a function before it takes more memory than there is: the kernel would end the search."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self._elements = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Looks at the size of what is to be made, and makes it.

        Raises:
            ArchitectureError: If this machine cannot hold it.
        """
        kwargs = kwargs or {}
        if function in _MAKERS:
            self._elements += elements_of(function, args, kwargs)
            try:
                require_room_for({"": (self._elements,)}, self._text)
            except OutOfMemory as error:
                raise ArchitectureError(f"{self._text} {error.message}") from error
        return function(*args, **kwargs)


def _function(text: str) -> Callable[..., Any]:
    place, _, name = text.rpartition(":")
    path = Path(place)
    if path.suffix == ".py" and not path.is_file():
        raise ConfigError(f"{path}: no such file; the name of a space is a path relative to the study's file")
    if path.suffix == ".py":
        module = executed(path, ConfigError)
    else:
        with blamed(f"{place}: cannot be imported", ConfigError):
            module = importlib.import_module(place)
        installed(module)
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{text}: {place} has no function {name!r}")
    return function


def _parameters(function: Callable[..., Any]) -> list[str] | None:
    """Names of the arguments of a function; None for one that takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled code seldom says
        return None
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


def _decision(name: str, values: list[Any]) -> Decision:
    if not all(isinstance(v, str | int | float) for v in values):
        raise ConfigError(f"[space] {name} must be a list of texts, numbers or truth values, got {values!r}")
    numbers = [v for v in values if not isinstance(v, str | bool)]
    return Decision(name, tuple(values), ordered=len(numbers) == len(values) and numbers == sorted(numbers))
