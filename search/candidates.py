"""Architectures worth a look: where an acquisition is evaluated, and where a search starts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence, Set

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from results.errors import ArchitectureError
from results.records import Architecture
from search.inputs import InputMemory
from search.network import costs
from search.novelty import every_architecture
from search.space import SearchSpace

WHOLE = 1000
"""Spaces of up to so many encodings are looked at whole."""

LISTINGS = 512
"""Architectures whose neighbours are remembered."""

NEIGHBOURS = 400
DOUBLE_EDITS = 120
CROSSOVERS = 80
RANDOM = 250
POOL = 500
FEWEST_LIKELY = 10
"""Random architectures from which the start is picked, and how many of them are kept at least."""


class Neighbourhood:
    """One-edit neighbours; those of an architecture are listed once, a search comes back to them.

    Args:
        space: Of the architectures.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._near = functools.lru_cache(maxsize=LISTINGS)(lambda a: tuple(space.neighbours(a)))

    def of(self, parents: Iterable[Architecture], rng: np.random.Generator, most: int) -> list[Architecture]:
        """Neighbours of the parents, up to ``most`` of them by chance, in a fixed order."""
        found = _different(near for parent in parents for near in self._near(parent))
        if len(found) > most:
            found = [found[i] for i in np.sort(rng.choice(len(found), size=most, replace=False))]
        return found


def candidates(
    neighbourhood: Neighbourhood,
    parents: Sequence[Architecture],
    taken: Set[Architecture],
    rng: np.random.Generator,
) -> list[Architecture]:
    """New architectures: near the parents (one and two edits, crossover) and anywhere."""
    space = neighbourhood.space
    if space.size() <= WHOLE:
        return _new(every_architecture(space), taken)
    found = neighbourhood.of(parents, rng, NEIGHBOURS)
    if parents:
        for i in range(DOUBLE_EDITS):
            found.append(space.mutate(parents[i % len(parents)], rng, changes=2))
        for _ in range(CROSSOVERS):
            a, b = rng.integers(len(parents), size=2)
            found.append(space.crossover(parents[a], parents[b], rng))
    found += [space.sample(rng) for _ in range(RANDOM)]
    return _new(found, taken)


def spread_start(
    space: SearchSpace,
    tried: Sequence[Architecture],
    taken: Set[Architecture],
    rng: np.random.Generator,
    chance: Callable[[Sequence[Architecture]], NDArray[np.float64]] | None = None,
) -> Architecture | None:
    """The next trial of a start that covers the space: the largest network first, then maximin.

    Maximin: the architecture of a random pool whose graph features are farthest from those of the nearest
    one tried (Johnson, Moore, Ylvisaker 1990).  None if nothing new is left in the space.  Of networks that
    cannot be built one is tried, so that its error is told, and no other.

    Args:
        space: Where to start.
        tried: Architectures told or pending, from which to keep away.
        taken: Architectures not to return.
        rng: Equal for all trials of the start, so that they are picked from one pool.
        chance: Probability to be feasible, as far as measurements tell: those that hardly are do not
            count, so that a start under tight limits has something to train.
    """
    small = space.size() <= WHOLE
    pool = _new(every_architecture(space) if small else [space.sample(rng) for _ in range(POOL)], taken)
    if not pool:
        return None
    if chance is not None:
        pool = _likely(pool, chance(pool))
    if not tried:
        return max(pool, key=lambda a: _work(space, a))
    memory = InputMemory(space, space.encode)
    known = [a for a, fine in zip(pool, memory.buildable(pool), strict=True) if fine]
    near = [a for a, fine in zip(tried, memory.buildable(tried), strict=True) if fine]
    if len(known) < len(pool) and len(near) == len(tried):
        return next(a for a in pool if a not in known)
    if not known or not near:
        return (known or pool)[0]
    rows = memory.of([*known, *near]).features
    rows = (rows - rows.mean(axis=0)) / np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1.0)
    return known[int(cdist(rows[: len(known)], rows[len(known) :]).min(axis=1).argmax())]


def _work(space: SearchSpace, architecture: Architecture) -> float:
    """Multiply-accumulates of a network; more than any of one that cannot be built: so its error is told."""
    try:
        return costs(space.build(architecture)).macs
    except ArchitectureError:
        return math.inf


def _likely(pool: Sequence[Architecture], chances: NDArray[np.float64]) -> list[Architecture]:
    """Those that are rather feasible than not; the likeliest where there are few of them."""
    order = np.argsort(-chances, kind="stable")
    count = max(int((chances >= 0.5).sum()), min(FEWEST_LIKELY, len(pool)))
    return [pool[i] for i in order[:count]]


def _new(found: Iterable[Architecture], taken: Set[Architecture]) -> list[Architecture]:
    return [a for a in _different(found) if a not in taken]


def _different(found: Iterable[Architecture]) -> list[Architecture]:
    """Each architecture of one space once, in order."""
    return list({a.choices: a for a in found}.values())
