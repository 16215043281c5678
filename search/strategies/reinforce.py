"""REINFORCE with a recurrent controller: Zoph and Le 2017 (ICLR), equation in section 3.2, with the measured
costs in what it is rewarded for; PPO (Schulman et al. 2017, equation 7) as an option.

The controller (:mod:`search.controller`) draws an architecture; the choices and their log-probability travel
in the proposal's note; when the trial is told, the gradient of its log-probability times its advantage
(:mod:`search.reward`: how it ranks among the trials before it) is followed.  Weights are a function of the
tells in their order.

An entropy bonus keeps the distribution from collapsing on the first good networks (Williams and Peng 1991,
Connection Science 3): for fixed advantages A the best distribution is proportional to
``exp(A / ENTROPY)``.

Deviations: ranks take the place of rewards and of their moving average; draws that were tried before are
drawn again, and when 256 bring nothing new the last is mutated; a trial may come back some updates after it
was drawn, which plain REINFORCE leaves out of account and PPO's ratio corrects.  Infeasible trials teach
until one is feasible; trials from elsewhere, and those that the board lost, nothing.
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
from search.reward import FRONT, Advantage
from search.space import SearchSpace

ROWS = 64
ROUNDS = 4
"""Draws at once, and how often, before the last one is mutated."""

ENTROPY = 0.2
"""Weight of the entropy [1 / nat] beside advantages in [-1/2, 1/2]."""

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
        form: What is better: ``"front"``, or MnasNet's ``"soft"`` or ``"hard"`` reward.
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
        form: str = FRONT,
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
        self._advantage = Advantage(problem, form)
        self._controller = Controller(space, seed)
        self._optimizer = torch.optim.Adam(self._controller.parameters(), lr=learning_rate)
        self._lessons: list[Lesson] = []

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
        drawn = self._drawn(outcome)
        advantage = None if drawn is None else self._advantage(outcome, earlier)
        if drawn is None or advantage is None:
            return
        self._lessons.append(Lesson(*drawn, advantage))
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

    def _learn(self) -> None:
        choices, old, advantage = zip(*self._lessons, strict=True)
        with one_thread():
            for _ in range(PASSES if self.algorithm == "ppo" else 1):
                self._optimizer.zero_grad()
                loss = self._loss(choices, torch.tensor(old), torch.tensor(advantage))
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()

    def _loss(self, choices: Sequence[Choices], old: Tensor, advantage: Tensor) -> Tensor:
        now, entropy = self._controller.judge(choices)
        bonus = ENTROPY * entropy.mean()
        if self.algorithm == "reinforce":
            return -(now * advantage).mean() - bonus
        ratio = torch.exp(now - old)
        clipped = torch.clamp(ratio, 1.0 - CLIP, 1.0 + CLIP)
        return -torch.minimum(ratio * advantage, clipped * advantage).mean() - bonus
