"""Grid search: every architecture of a small space, once, in a fixed order.

The order is that of the choices (:meth:`~search.space.SearchSpace.architectures`), whatever the results:
what a study reports does not depend on a seed, and after the last trial the front is the true one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.errors import ConfigError
from results.records import Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.history import History
from search.space import SearchSpace

LARGEST = 10_000
"""Encodings of the largest space that is gone through: more trainings than anyone has time for."""


class Strategy(strategy.Strategy):
    """All of a space that has at most :data:`LARGEST` encodings.

    Raises:
        ConfigError: If the space is larger.
    """

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if space.size() > LARGEST:
            raise ConfigError(
                f"grid takes spaces of at most {LARGEST:,} encodings, {space.name!r} has {space.size():,}; "
                "give its decisions fewer options or take another strategy"
            )
        self.history = History(space, problem)
        self._order = list(space.architectures())

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """The first architecture that is neither told nor pending; see the base class."""
        taken = self.history.taken(pending)
        found = next((a for a in self._order if a not in taken), None)
        return None if found is None else Proposal(found, self.fidelity)

    def tell(self, evaluation: Evaluation) -> None:
        """Remembers what was tried; see the base class."""
        self.history.add(evaluation)
