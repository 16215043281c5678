"""What every search strategy is: ask and tell, pure in ask, ignorant of devices.

The state of a strategy is a function of its arguments and of the evaluations it was told, in order.
So a run is resumed by telling again, never by asking again, and asks do not depend on who was faster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.records import Evaluation, Fidelity, Problem, Proposal, Trial
from search.space import SearchSpace


class Strategy(ABC):
    """Decides which architecture to try next.

    Args:
        space: Where to search.
        problem: Objectives and limits.
        fidelity: Training that a full trial gets.
        seed: Everything random follows from it.
        prior: Records of earlier stages (profiles, a supernet), by stage name.

    Attributes:
        measured_per_training: Candidates that it has measured for each that is trained, on average at most.
    """

    measured_per_training = 1

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
    ) -> None:
        self.space = space
        self.problem = problem
        self.fidelity = fidelity
        self.seed = seed
        self.prior = dict(prior or {})

    @abstractmethod
    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """Proposes trial ``number``.  Changes no state.

        Args:
            number: Number of the trial, from 0.  Randomness is :meth:`randomness` of it and nothing else.
            pending: Trials asked but not yet told, in the order of their numbers.

        Returns:
            A proposal, of a training or of a measurement alone (``screen_only``).  None with something
            pending means "wait for a result"; None with nothing pending means that the search has ended.
        """

    @abstractmethod
    def tell(self, evaluation: Evaluation) -> None:
        """Takes in a trial in its final state; called exactly once per trial.

        Trainings are told in the order of their numbers; what is only screened, before the next ask.
        Failed, infeasible and unmeasured trials are told too, and so are trials that this strategy
        never asked for.

        Raises:
            ConfigError: If the architecture belongs to another space, or the trial was told before.
        """

    def randomness(self, number: int) -> np.random.Generator:
        """Generator of ask ``number``: a function of the seed and the number alone."""
        return np.random.default_rng((self.seed, number))
