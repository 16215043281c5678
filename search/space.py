"""Search spaces: decisions as data, and every operation on them written once.

A space is a tuple of :class:`Decision`; a decision may apply only where earlier ones took certain
options (a layer that does not exist has no kernel size).  Sampling, mutation, crossover, encoding and
distance follow from the decisions; a space adds only how its choices become a layer graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

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
        only_if: Earlier decisions and the options they must have taken, all of them, for this one
            to apply; a parent that does not apply itself counts as not taken.
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
        settings: Whatever else :meth:`build` depends on, as a JSON object; part of the fingerprint.

    Raises:
        ConfigError: If decisions repeat a name or depend on what does not come before them.
    """

    def __init__(
        self, name: str, decisions: Sequence[Decision], settings: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.decisions = tuple(decisions)
        self.settings = dict(settings or {})
        self._index = {d.name: i for i, d in enumerate(self.decisions)}
        if not self.decisions or len(self._index) != len(self.decisions):
            raise ConfigError(f"space {name!r} needs decisions with different names")
        for i, decision in enumerate(self.decisions):
            for parent, allowed in decision.only_if:
                self._check_condition(i, parent, allowed)
        self._conditions = tuple(
            tuple((self._index[p], self._places(p, allowed)) for p, allowed in d.only_if)
            for d in self.decisions
        )

    def _places(self, name: str, allowed: tuple[Option, ...]) -> frozenset[int]:
        options = self.decisions[self._index[name]].options
        return frozenset(options.index(option) for option in allowed)

    def _check_condition(self, index: int, parent: str, allowed: tuple[Option, ...]) -> None:
        name = self.decisions[index].name
        if self._index.get(parent, index) >= index:
            raise ConfigError(f"space {self.name!r}: {name!r} depends on {parent!r}, which is not before it")
        if not allowed or not set(allowed) <= set(self.decisions[self._index[parent]].options):
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
        """Hash of the name, the decisions and the settings."""
        decisions = [[d.name, list(d.options), list(d.only_if)] for d in self.decisions]
        return digest([self.name, decisions, self.settings])

    def architecture(self, choices: Sequence[int]) -> Architecture:
        """The canonical architecture of these choices.

        Decisions that do not apply become 0; of encodings of one network, :meth:`canonical` picks one.

        Raises:
            ArchitectureError: If there are too few or many choices, or one is out of range.
        """
        return Architecture(self.fingerprint, self.canonical(self._merged(choices)))

    def canonical(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """The encoding that stands for all that describe the same network; a space may override it.

        So a network has one architecture, however it was come by, and is tried once.  The encoding stands
        for itself; decisions that do not apply are 0 in what comes in and in what goes out.
        """
        return choices

    def equivalents(self, choices: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        """Encodings of the same network that mutation and :meth:`neighbours` start from.

        A space overrides it where changes to the canonical encoding alone would not reach everything: a
        cell whose second dead edge has to change before the first makes a difference.  In a fixed order.
        """
        return (choices,)

    def _merged(self, choices: Sequence[int]) -> tuple[int, ...]:
        """These choices with 0 for decisions that do not apply; errors as in :meth:`architecture`."""
        if len(choices) != len(self.decisions):
            raise ArchitectureError(f"{self.name} has {len(self.decisions)} decisions, got {len(choices)}")
        canonical: list[int] = []
        applying: list[bool] = []
        for i, (decision, choice) in enumerate(zip(self.decisions, choices, strict=True)):
            if not 0 <= choice < len(decision.options):
                raise ArchitectureError(f"{self.name}: {decision.name} has no option number {choice}")
            applying.append(self._holds(i, canonical, applying))
            canonical.append(int(choice) if applying[i] else 0)
        return tuple(canonical)

    def _holds(self, index: int, choices: Sequence[int], applying: Sequence[bool]) -> bool:
        return all(applying[p] and choices[p] in allowed for p, allowed in self._conditions[index])

    def applying(self, choices: Sequence[int]) -> list[bool]:
        """Which decisions apply, given all choices (or the first few: then which of those apply)."""
        applying: list[bool] = []
        for i in range(len(choices)):
            applying.append(self._holds(i, choices, applying))
        return applying

    def applies(self, index: int, choices: Sequence[int]) -> bool:
        """Whether decision number ``index`` applies, given (at least) all choices before it."""
        return self._holds(index, choices, self.applying(choices[:index]))

    def describe(self, architecture: Architecture) -> dict[str, Option]:
        """Options by decision, of those that apply; inverse of :meth:`from_options`."""
        self.check(architecture)
        choices = architecture.choices
        rows = zip(self.decisions, choices, self.applying(choices), strict=True)
        return {d.name: d.options[choice] for d, choice, applies in rows if applies}

    def from_options(self, options: dict[str, Option]) -> Architecture:
        """The architecture with these options; decisions left out take their first option.

        Options of decisions that do not apply have no effect.

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

    def architectures(self) -> Iterator[Architecture]:
        """Every architecture once, in lexicographic order of the choices; lazily, spaces are large."""
        pending: list[tuple[tuple[int, ...], tuple[bool, ...]]] = [((), ())]
        while pending:
            choices, applying = pending.pop()
            if len(choices) == len(self.decisions):
                if self.canonical(choices) == choices:
                    yield Architecture(self.fingerprint, choices)
                continue
            applies = self._holds(len(choices), choices, applying)
            options = len(self.decisions[len(choices)].options) if applies else 1
            pending += [((*choices, o), (*applying, applies)) for o in reversed(range(options))]

    def sample(self, rng: np.random.Generator) -> Architecture:
        """An architecture with every option of every decision that applies equally likely.

        Architectures are not equally likely where decisions are conditional: small ones come up more
        often than their share, which is what a search wants to begin with.
        """
        return self.architecture([int(rng.integers(len(d.options))) for d in self.decisions])

    def mutate(
        self, architecture: Architecture, rng: np.random.Generator, *, changes: int = 1
    ) -> Architecture:
        """Another architecture, in which ``changes`` of the decisions take another option.

        The changed decisions are drawn evenly from those that apply and have a choice, and apply
        afterwards too; fewer are changed where no more can be, and more where that many make no other
        network.  A decision that comes to apply through a change takes a random option.  Where one network
        has several :meth:`equivalents`, a random one is changed.  The space with a single architecture
        returns that.
        """
        current = self._any_equivalent(architecture.choices, rng)
        applying = self.applying(current)
        free = [i for i, d in enumerate(self.decisions) if applying[i] and len(d.options) > 1]
        changed = list[int]()
        mutant = architecture
        for i in rng.permutation(free):
            if len(changed) >= changes and mutant != architecture:
                break
            changed_too = self._change(current, int(i), rng)
            still = self.applying(changed_too)
            if all(still[j] for j in (*changed, int(i))):  # a parent must not switch off a changed child
                current = changed_too
                changed.append(int(i))
                mutant = self.architecture(current)
        return mutant

    def _any_equivalent(self, choices: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        known = self.equivalents(choices)
        return known[int(rng.integers(len(known)))] if len(known) > 1 else choices

    def _change(self, choices: tuple[int, ...], index: int, rng: np.random.Generator) -> tuple[int, ...]:
        applying = self.applying(choices)
        new = [
            choice if applies else int(rng.integers(len(d.options)))
            for d, choice, applies in zip(self.decisions, choices, applying, strict=True)
        ]
        options = len(self.decisions[index].options)
        new[index] = int(choices[index] + rng.integers(1, options)) % options
        return self._merged(new)

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Each decision from one of the two parents, with equal chances (uniform crossover).

        A decision that applies in one parent only comes from that one: the other has no choice to
        give.  One that applies in neither takes a random option, should it apply in the child.  The child
        is in canonical form.
        """
        in_a, in_b = self.applying(a.choices), self.applying(b.choices)
        child = []
        for i, decision in enumerate(self.decisions):
            given = [p.choices[i] for p, applies in ((a, in_a[i]), (b, in_b[i])) if applies]
            given = given or list(range(len(decision.options)))
            child.append(given[int(rng.integers(len(given)))])
        return self.architecture(child)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All different architectures with one applying decision changed, in a fixed order, each once.

        One decision of the architecture's own encoding or of one of its :meth:`equivalents`.  Decisions
        that come to apply take their first option: listing all of their combinations would have no end.
        So every step can be taken back in one step, except one that switches decisions off that were not
        at their first option.
        """
        seen = {architecture}
        for choices in self.equivalents(architecture.choices):
            for changed in self._single_changes(choices):
                found = self.architecture(changed)
                if found not in seen:
                    seen.add(found)
                    yield found

    def _single_changes(self, choices: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for i, applies in enumerate(self.applying(choices)):
            for option in range(len(self.decisions[i].options)) if applies else ():
                if option != choices[i]:
                    yield (*choices[:i], option, *choices[i + 1 :])

    def encode(self, architecture: Architecture) -> NDArray[np.float64]:
        """Numbers in [0, 1], shape ``(m,)``: one-hot options, or the place on the scale if ordered.

        A decision that does not apply is all zeros (ordered ones carry an extra "applies").
        """
        parts: list[float] = []
        choices = architecture.choices
        for decision, choice, applies in zip(self.decisions, choices, self.applying(choices), strict=True):
            parts += _code(decision, choice) if applies else [0.0] * _code_length(decision)
        return np.asarray(parts)

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """What a surrogate learns from, shape ``(k,)``; spaces may add features of the built graph."""
        return self.encode(architecture)

    def structure(self, architecture: Architecture) -> NDArray[np.float64]:
        """Numbers whose city-block distance says how much two networks have in common, shape ``(k,)``.

        Counts of substructures (paths, subgraphs); surrogates compare architectures by them beside the
        :meth:`features`.  Without anything better, the encoding: its distance counts edits.
        """
        return self.encode(architecture)

    def distance(self, a: Architecture, b: Architecture) -> float:
        """A metric: sum over decisions of how far the two choices are apart, each in [0, 1].

        Different options count 1 (ordered ones: the difference of their places on the scale, at
        least one step's share); a decision that applies to one of the two only counts 1.  Each summand
        is a metric on the options and "does not apply", which is 1 from all of them: so is the sum.
        """
        total = 0.0
        in_a, in_b = self.applying(a.choices), self.applying(b.choices)
        for i, decision in enumerate(self.decisions):
            if in_a[i] != in_b[i]:
                total += 1.0
            elif in_a[i] and a.choices[i] != b.choices[i]:
                steps = abs(a.choices[i] - b.choices[i])
                total += steps / (len(decision.options) - 1) if decision.ordered else 1.0
        return total

    def size(self) -> int:
        """Number of encodings, those that canonical form merges counted once per encoding."""
        return prod(len(d.options) for d in self.decisions)


def _code_length(decision: Decision) -> int:
    return 2 if decision.ordered else len(decision.options)


def _code(decision: Decision, choice: int) -> list[float]:
    if decision.ordered:
        return [1.0, choice / max(1, len(decision.options) - 1)]
    return [float(i == choice) for i in range(len(decision.options))]
