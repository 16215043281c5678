"""Search spaces: decisions as data, and every operation on them written once.

A space is a tuple of :class:`Decision`; a decision may apply only where earlier ones took certain
options (a layer that does not exist has no kernel size).  Sampling, mutation, crossover, encoding and
distance follow from the decisions; a space adds only how its choices become a layer graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from results.codec import digest
from results.errors import ArchitectureError, ConfigError, unknown_name
from results.records import Architecture, Option

if TYPE_CHECKING:
    from search.network import Network


@dataclass(frozen=True)
class Decision:
    """One choice of a space.

    Attributes:
        name: Unique within the space.
        options: What can be chosen; at least one.
        only_if: Earlier decisions and the options they must have taken for this one to apply.
        ordered: Whether options are on a scale (a width), so that near options are near in distance.
    """

    name: str
    options: tuple[Option, ...]
    only_if: tuple[tuple[str, tuple[Option, ...]], ...] = ()
    ordered: bool = False

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ConfigError(f"decision {self.name!r} needs options, all different, got {self.options!r}")


class SearchSpace(ABC):
    """A set of architectures.

    Args:
        name: Name of the space in the study.
        decisions: Its choices; ``only_if`` may name earlier ones only.

    Raises:
        ConfigError: If decisions repeat a name or depend on what does not come before them.
    """

    def __init__(self, name: str, decisions: Sequence[Decision]) -> None:
        self.name = name
        self.decisions = tuple(decisions)
        self._index = {d.name: i for i, d in enumerate(self.decisions)}
        if not self.decisions or len(self._index) != len(self.decisions):
            raise ConfigError(f"space {name!r} needs decisions with different names")
        for i, decision in enumerate(self.decisions):
            for parent, allowed in decision.only_if:
                self._check_condition(i, parent, allowed)

    def _check_condition(self, index: int, parent: str, allowed: tuple[Option, ...]) -> None:
        name = self.decisions[index].name
        if self._index.get(parent, index) >= index:
            raise ConfigError(f"space {self.name!r}: {name!r} depends on {parent!r}, which is not before it")
        if not set(allowed) <= set(self.decisions[self._index[parent]].options):
            raise ConfigError(f"space {self.name!r}: {name!r} asks for options that {parent!r} has not")

    @abstractmethod
    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """The layer graph of an architecture; a pure function of its arguments.

        Args:
            architecture: A point of this space.
            width: Multiplier of the channel numbers.
            resolution: Edge of the input in pixels; None for the space's own.

        Raises:
            ArchitectureError: If the architecture is not of this space.
        """

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the name and the decisions."""
        return digest([self.name, [[d.name, list(d.options), list(d.only_if)] for d in self.decisions]])

    def architecture(self, choices: Sequence[int]) -> Architecture:
        """The canonical architecture of these choices; decisions that do not apply become 0.

        Raises:
            ArchitectureError: If there are too few or many choices, or one is out of range.
        """
        if len(choices) != len(self.decisions):
            raise ArchitectureError(f"{self.name} has {len(self.decisions)} decisions, got {len(choices)}")
        canonical: list[int] = []
        for decision, choice in zip(self.decisions, choices, strict=True):
            if not 0 <= choice < len(decision.options):
                raise ArchitectureError(f"{self.name}: {decision.name} has no option number {choice}")
            canonical.append(int(choice) if self._applies(decision, canonical) else 0)
        return Architecture(self.fingerprint, tuple(canonical))

    def describe(self, architecture: Architecture) -> dict[str, Option]:
        """Options by decision, of those that apply; inverse of :meth:`from_options`."""
        self.check(architecture)
        choices = architecture.choices
        return {
            d.name: d.options[choices[i]] for i, d in enumerate(self.decisions) if self.applies(i, choices)
        }

    def from_options(self, options: dict[str, Option]) -> Architecture:
        """The architecture with these options; decisions left out take their first option.

        Raises:
            ArchitectureError: For an unknown decision or option, with the nearest known.
        """
        choices = [0] * len(self.decisions)
        for name, option in options.items():
            if name not in self._index:
                raise ArchitectureError(unknown_name("decision", name, self._index))
            known = self.decisions[self._index[name]].options
            if option not in known:
                raise ArchitectureError(f"{name} has no option {option!r}; known: {known}")
            choices[self._index[name]] = known.index(option)
        return self.architecture(choices)

    def check(self, architecture: Architecture) -> None:
        """Raises ArchitectureError unless the architecture is a canonical point of this space."""
        if architecture.space != self.fingerprint:
            raise ArchitectureError(f"architecture of another space, or of another version of {self.name!r}")
        if self.architecture(architecture.choices) != architecture:
            raise ArchitectureError(f"{architecture.choices} is not in canonical form in {self.name!r}")

    def applies(self, index: int, choices: Sequence[int]) -> bool:
        """Whether decision number ``index`` applies, given (at least) all choices before it."""
        return self._applies(self.decisions[index], choices)

    def _applies(self, decision: Decision, choices: Sequence[int]) -> bool:
        for parent, allowed in decision.only_if:
            i = self._index[parent]
            if not self.applies(i, choices) or self.decisions[i].options[choices[i]] not in allowed:
                return False
        return True

    def sample(self, rng: np.random.Generator) -> Architecture:
        """An architecture with every option of every decision equally likely."""
        return self.architecture([int(rng.integers(len(d.options))) for d in self.decisions])

    def mutate(
        self, architecture: Architecture, rng: np.random.Generator, *, changes: int = 1
    ) -> Architecture:
        """Another architecture, ``changes`` decisions away where there are that many.

        A decision that comes to apply through the change takes a random option.  The space with a
        single architecture returns that.
        """
        current = architecture
        for _ in range(changes):
            current = self._mutate_once(current, rng)
        return current

    def _mutate_once(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        choices = architecture.choices
        free = [i for i, d in enumerate(self.decisions) if len(d.options) > 1 and self.applies(i, choices)]
        if not free:
            return architecture
        changed = int(rng.choice(free))
        new = list(choices)
        new[changed] = int(choices[changed] + rng.integers(1, len(self.decisions[changed].options)))
        new[changed] %= len(self.decisions[changed].options)
        for i in range(changed + 1, len(new)):
            if not self.applies(i, choices):
                new[i] = int(rng.integers(len(self.decisions[i].options)))
        return self.architecture(new)

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Each decision from one of the two parents, with equal chances (uniform crossover)."""
        return self.architecture(
            [x if rng.random() < 0.5 else y for x, y in zip(a.choices, b.choices, strict=True)]
        )

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All different architectures with one applying decision changed, in a fixed order."""
        seen = {architecture}
        for i, decision in enumerate(self.decisions):
            if not self.applies(i, architecture.choices):
                continue
            for option in range(len(decision.options)):
                choices = list(architecture.choices)
                choices[i] = option
                near = self.architecture(choices)
                if near not in seen:
                    seen.add(near)
                    yield near

    def encode(self, architecture: Architecture) -> NDArray[np.float64]:
        """Numbers in [0, 1], shape ``(m,)``: one-hot options, or the place on the scale if ordered.

        A decision that does not apply is all zeros (ordered ones carry an extra "applies").
        """
        parts: list[float] = []
        for i, decision in enumerate(self.decisions):
            on = self.applies(i, architecture.choices)
            parts += _code(decision, architecture.choices[i]) if on else [0.0] * _code_length(decision)
        return np.asarray(parts)

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """What a surrogate learns from, shape ``(k,)``; spaces may add features of the built graph."""
        return self.encode(architecture)

    def distance(self, a: Architecture, b: Architecture) -> float:
        """A metric: sum over decisions of how far the two choices are apart, each in [0, 1].

        Different options count 1 (ordered ones: the difference of their places on the scale, at
        least one step's share); a decision that applies to one of the two only counts 1.
        """
        total = 0.0
        for i, decision in enumerate(self.decisions):
            in_a, in_b = self.applies(i, a.choices), self.applies(i, b.choices)
            if in_a != in_b:
                total += 1.0
            elif in_a and a.choices[i] != b.choices[i]:
                steps = abs(a.choices[i] - b.choices[i])
                total += steps / (len(decision.options) - 1) if decision.ordered else 1.0
        return total

    def size(self) -> int:
        """Number of encodings, those that canonical form merges counted once per encoding."""
        return int(np.prod([float(len(d.options)) for d in self.decisions]))


def _code_length(decision: Decision) -> int:
    return 2 if decision.ordered else len(decision.options)


def _code(decision: Decision, choice: int) -> list[float]:
    if decision.ordered:
        return [1.0, choice / max(1, len(decision.options) - 1)]
    return [float(i == choice) for i in range(len(decision.options))]
