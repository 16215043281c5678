"""Architectures as surrogates see them: arrays, a row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.errors import ArchitectureError
from results.records import Architecture
from search.space import SearchSpace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """Architectures as a surrogate sees them.

    Attributes:
        features: Features of the graphs, shape ``(n, k)``.
        structures: Counts of substructures (:meth:`~search.space.SearchSpace.structure`, or one of
            :mod:`search.graph_structure`), shape ``(n, m)``.
        encodings: Decisions (:meth:`~search.space.SearchSpace.encode`), shape ``(n, d)``.
    """

    features: Floats
    structures: Floats
    encodings: Floats

    @classmethod
    def of(cls, space: SearchSpace, architectures: Sequence[Architecture]) -> Inputs:
        """Inputs of architectures of a space."""
        return InputMemory(space).of(architectures)

    @property
    def as_run(self) -> Inputs:
        """As costs depend on them: the encoding is what a runtime executes.

        What makes no difference to accuracy (an operation that leads nowhere) may still take its time.
        """
        return Inputs(self.features, self.encodings, self.encodings)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Inputs:
        """Some rows."""
        index = np.asarray(rows, dtype=np.int64)
        return Inputs(self.features[index], self.structures[index], self.encodings[index])

    def widened(self, features: int, structures: int) -> Inputs:
        """These rows with so many columns; zeros where no network was known before."""
        if self.features.shape[1] == features:
            return self
        return Inputs(np.zeros((len(self), features)), np.zeros((len(self), structures)), self.encodings)

    def joined(self, other: Inputs) -> Inputs:
        """These rows and then those."""
        return Inputs(
            np.vstack([self.features, other.features]),
            np.vstack([self.structures, other.structures]),
            np.vstack([self.encodings, other.encodings]),
        )


class InputMemory:
    """Inputs of architectures, each worked out once: a search looks at the same ones again and again.

    Args:
        space: Of the architectures.
        structure: What their substructures are; the space's own if None.
    """

    def __init__(self, space: SearchSpace, structure: Callable[[Architecture], Floats] | None = None) -> None:
        self._space = space
        self._structure = structure or space.structure
        self._place: dict[tuple[int, ...], int] = {}
        self._broken: set[tuple[int, ...]] = set()
        self._rows = Inputs(*(np.empty((0, 0)) for _ in range(3)))

    def of(self, architectures: Sequence[Architecture]) -> Inputs:
        """Inputs, in order."""
        new = {a.choices: a for a in architectures if a.choices not in self._place}
        if new:
            self._add(list(new.values()))
        return self._rows.take([self._place[a.choices] for a in architectures])

    def networks(self, architectures: Sequence[Architecture]) -> list[bytes]:
        """What tells networks apart, in order: equal for those that a model of the accuracy takes for one."""
        rows = self.of(architectures)
        return [row.tobytes() for row in np.hstack([rows.features, rows.structures])]

    def buildable(self, architectures: Sequence[Architecture]) -> NDArray[np.bool_]:
        """Which of them could be built and so looked at, shape ``(n,)``."""
        self.of(architectures)
        return np.array([a.choices not in self._broken for a in architectures], dtype=np.bool_)

    def _add(self, new: Sequence[Architecture]) -> None:
        described = [self._described(a) for a in new]
        known = next((each for each in described if each is not None), None)
        widths = [len(part) for part in known or (self._rows.features.T, self._rows.structures.T)]
        features, structures = (
            np.array([np.zeros(width) if each is None else each[i] for each in described], dtype=np.float64)
            for i, width in enumerate(widths)
        )
        worked_out = Inputs(features, structures, np.array([self._space.encode(a) for a in new], np.float64))
        self._rows = self._rows.widened(*widths).joined(worked_out) if self._place else worked_out
        for architecture in new:
            self._place[architecture.choices] = len(self._place)

    def _described(self, architecture: Architecture) -> tuple[Floats, Floats] | None:
        """Features and structure; None of a network that cannot be built."""
        try:
            return self._space.features(architecture), self._structure(architecture)
        except ArchitectureError:
            self._broken.add(architecture.choices)
            return None
