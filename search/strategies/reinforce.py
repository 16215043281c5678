"""REINFORCE with a recurrent controller: Zoph and Le 2017 (ICLR), equation in section 3.2, with the measured
costs in the reward as in MnasNet (:mod:`search.reward`); PPO (Schulman et al. 2017, equation 7) as an option.

The controller (:mod:`search.controller`) draws an architecture; the choices and their log-probability travel
in the proposal's note; when the trial is told, the policy gradient of the reward less a moving average of
rewards is followed.  Weights are a function of the tells in their order.

Deviations: advantages are divided by their running standard deviation, as rewards of good networks differ by
thousandths; draws that were tried before are drawn again, and when 256 bring nothing new the last is
mutated; a trial may come back some updates after it was drawn, which plain REINFORCE leaves out of account
and PPO's ratio corrects.  Trials from elsewhere, and those that the board lost, teach nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from results.errors import ArchitectureError, ConfigError
from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.controller import Choices, Controller, one_thread
from search.history import History, Outcome
from search.novelty import new_mutant
from search.reward import Reward
from search.space import SearchSpace

ROWS = 16
ROUNDS = 16
"""Draws at once, and how often, before the last one is mutated."""

DECAY = 0.9
"""Of the moving averages of the reward and of its squared deviation."""

CLIP = 0.2
PASSES = 4
"""Clipping range and passes over a batch of PPO."""

ALGORITHMS = ("reinforce", "ppo")


class Lesson(NamedTuple):
    """A told draw: choices, log-probability when drawn [nats], advantage."""

    choices: Choices
    log_probability: float
    advantage: float


class Strategy(strategy.Strategy):
    """Policy gradient over the decisions of the space.

    Args:
        form: ``"soft"`` or ``"hard"`` constraint of costs in the reward.
        algorithm: ``"reinforce"`` or ``"ppo"``.
        learning_rate: Of Adam.
        batch: Trials per update of the weights.
    """

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
        form: str = "soft",
        algorithm: str = "reinforce",
        learning_rate: float = 0.01,
        batch: int = 1,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm is {algorithm!r}; known: {', '.join(ALGORITHMS)}")
        if batch < 1 or not learning_rate > 0.0:
            raise ConfigError(
                f"reinforce needs batch >= 1 and learning_rate > 0, got {batch} and {learning_rate}"
            )
        self.algorithm = algorithm
        self.batch = batch
        self.history = History(space, problem)
        self._reward = Reward(problem, form)
        self._controller = Controller(space, seed)
        self._optimizer = torch.optim.Adam(self._controller.parameters(), lr=learning_rate)
        self._lessons: list[Lesson] = []
        self._mean: float | None = None
        self._variance = 0.0

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """A draw of the controller that is new; see the base class."""
        taken = self.history.taken(pending)
        rng = self.randomness(number)
        last: Architecture | None = None
        for _ in range(ROUNDS):
            for choices in self._controller.draw(rng, ROWS):
                last = self.space.architecture(choices)
                if last not in taken:
                    return self._proposal(last, choices)
        return self._mutant(last, rng, taken)

    def tell(self, evaluation: Evaluation) -> None:
        """Follows the gradient once a batch is full; see the base class."""
        earlier = tuple(self.history.outcomes)
        outcome = self.history.add(evaluation)
        reward = self._reward(outcome, earlier)
        drawn = self._drawn(outcome)
        if reward is None or drawn is None:
            return
        self._lessons.append(Lesson(*drawn, self._advantage(reward)))
        if len(self._lessons) >= self.batch:
            self._learn()
            self._lessons = []

    def _proposal(self, architecture: Architecture, choices: Choices) -> Proposal:
        with torch.no_grad(), one_thread():
            log_probability = float(self._controller.log_probabilities([choices])[0])
        note = {"choices": list(choices), "log_probability": log_probability}
        return Proposal(architecture, self.fidelity, note=note)

    def _mutant(
        self, parent: Architecture | None, rng: np.random.Generator, taken: Set[Architecture]
    ) -> Proposal | None:
        mutant = None if parent is None else new_mutant(self.space, parent, rng, taken)
        return None if mutant is None else self._proposal(mutant, mutant.choices)

    def _drawn(self, outcome: Outcome) -> tuple[Choices, float] | None:
        """Choices and log-probability of the note; None if it is not ours."""
        choices, log_probability = outcome.note.get("choices"), outcome.note.get("log_probability")
        if not isinstance(choices, list) or not isinstance(log_probability, float):
            return None
        try:
            same = self.space.architecture(choices) == outcome.architecture
        except (ArchitectureError, TypeError):  # another strategy's note may hold anything
            return None
        return (tuple(choices), log_probability) if same else None

    def _advantage(self, reward: float) -> float:
        """Reward less the baseline, in units of its spread; both are updated afterwards."""
        if self._mean is None:
            self._mean = reward
            return 0.0
        difference = reward - self._mean
        self._mean += (1.0 - DECAY) * difference
        first = self._variance == 0.0
        self._variance = difference**2 if first else DECAY * self._variance + (1 - DECAY) * difference**2
        return difference / self._variance**0.5 if self._variance > 0.0 else 0.0

    def _learn(self) -> None:
        choices, old, advantage = zip(*self._lessons, strict=True)
        with one_thread():
            for _ in range(PASSES if self.algorithm == "ppo" else 1):
                self._optimizer.zero_grad()
                loss = self._loss(choices, torch.tensor(old), torch.tensor(advantage))
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()

    def _loss(self, choices: Sequence[Choices], old: Tensor, advantage: Tensor) -> Tensor:
        now = self._controller.log_probabilities(choices)
        if self.algorithm == "reinforce":
            return -(now * advantage).mean()
        ratio = torch.exp(now - old)
        clipped = torch.clamp(ratio, 1.0 - CLIP, 1.0 + CLIP)
        return -torch.minimum(ratio * advantage, clipped * advantage).mean()
