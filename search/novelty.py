"""Architectures that were not tried before: drawn, mutated or listed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Set
from functools import partial

import numpy as np

from results.records import Architecture
from search.space import SearchSpace

DRAWS = 1000
"""Draws without anything new after which a space is listed, or given up as exhausted.

A space of which 1 % is left is given up wrongly with probability 0.99 ** 1000 = 4e-5.
"""

LISTED = 20_000
"""Largest number of encodings that are listed one by one."""


def new_sample(space: SearchSpace, rng: np.random.Generator, taken: Set[Architecture]) -> Architecture | None:
    """A random architecture outside ``taken``; None if there is none left."""
    return _first_new(partial(space.sample, rng), taken) or _listed(space, rng, taken)


def new_mutant(
    space: SearchSpace, parent: Architecture, rng: np.random.Generator, taken: Set[Architecture]
) -> Architecture | None:
    """A mutant of ``parent`` outside ``taken``, one change away if there is one, else two, three ...

    None if there is nothing new in the space.
    """
    for changes in range(1, len(space.decisions) + 1):
        draws = 4 * sum(len(d.options) for d in space.decisions)
        mutant = _first_new(partial(space.mutate, parent, rng, changes=changes), taken, draws)
        if mutant is not None:
            return mutant
    return new_sample(space, rng, taken)


def listable(space: SearchSpace) -> bool:
    """Whether the space is small enough to go through all of it."""
    return space.size() <= LISTED


def every_architecture(space: SearchSpace) -> list[Architecture]:
    """All different architectures of a space, in a fixed order; for spaces that are :func:`listable`."""
    encodings = itertools.product(*(range(len(d.options)) for d in space.decisions))
    return list(dict.fromkeys(space.architecture(choices) for choices in encodings))


def _first_new(
    draw: Callable[[], Architecture], taken: Set[Architecture], draws: int = DRAWS
) -> Architecture | None:
    for _ in range(draws):
        drawn = draw()
        if drawn not in taken:
            return drawn
    return None


def _listed(space: SearchSpace, rng: np.random.Generator, taken: Set[Architecture]) -> Architecture | None:
    if not listable(space):
        return None
    left = [a for a in every_architecture(space) if a not in taken]
    return left[int(rng.integers(len(left)))] if left else None
