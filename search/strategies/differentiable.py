"""Differentiable search as a strategy: asks for what architecture weights favour, the best first.

The weights are learnt before the search, by the stage ``pretrain`` with the latencies of the stage
``profile`` (:mod:`search.differentiable`), and reach the strategy as ``prior["pretrain"]``.  Then every trial
is trained by itself and measured, like any other: the weights only say which networks are worth a look.
Without them (no such stage was run) all options are as good as any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.codec import from_json
from results.errors import ConfigError, StoreError
from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.differentiable import Found, SearchPlan, plan_of
from search.history import History
from search.novelty import new_sample
from search.space import SearchSpace


class Strategy(strategy.Strategy):
    """What architecture weights favour, then samples by their probabilities.

    Args:
        method: How the weights are learnt; this and all up to ``selection`` as in
            :class:`search.differentiable.SearchPlan`.  What is None is as in the method's best measured row.
        samples: Networks that are drawn by the probabilities for each trial; the most probable of those
            that were not tried is asked for.
    """

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
        method: str = SearchPlan.method,
        epochs: int | None = None,
        warmup: int | None = SearchPlan.warmup,
        batch_size: int = SearchPlan.batch_size,
        architecture_rate: float = SearchPlan.architecture_rate,
        latency_weight: float | None = None,
        latency_form: str = SearchPlan.latency_form,
        skips: int = SearchPlan.skips,
        selection: str | None = None,
        samples: int = 64,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        if samples < 1:
            raise ConfigError(f"differentiable needs samples >= 1, got {samples}")
        self.plan = plan_of(
            method,
            epochs,
            latency_weight,
            selection,
            warmup=warmup,
            batch_size=batch_size,
            architecture_rate=architecture_rate,
            latency_form=latency_form,
            skips=skips,
        )
        self.samples = samples
        self.history = History(space, problem)
        self.selected: Architecture | None = None
        self.shares = [np.full(len(d.options), 1.0 / len(d.options)) for d in space.decisions]
        if "pretrain" in self.prior:
            self._read(self.prior["pretrain"])

    def informed(self, record: Mapping[str, Any]) -> Strategy:
        """A fresh strategy of the same options with the record of the stage ``pretrain``."""
        return Strategy(
            self.space,
            self.problem,
            fidelity=self.fidelity,
            seed=self.seed,
            prior={**self.prior, "pretrain": record},
            samples=self.samples,
            **dataclasses.asdict(self.plan),
        )

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """The selected network first, then the most probable of some drawn ones; see the base class."""
        taken = self.history.taken(pending)
        if self.selected is not None and self.selected not in taken:
            return Proposal(self.selected, self.fidelity)
        rng = self.randomness(number)
        drawn = {a: p for a, p in self._drawn(rng).items() if a not in taken}
        found = max(drawn, key=lambda a: drawn[a]) if drawn else new_sample(self.space, rng, taken)
        return None if found is None else Proposal(found, self.fidelity)

    def tell(self, evaluation: Evaluation) -> None:
        """Remembers what was tried; see the base class."""
        self.history.add(evaluation)

    def _drawn(self, rng: np.random.Generator) -> dict[Architecture, float]:
        """Networks drawn by the probabilities, with the logarithm of that of the likeliest encoding drawn."""
        columns = [rng.choice(len(share), size=self.samples, p=share) for share in self.shares]
        drawn: dict[Architecture, float] = {}
        for row in np.stack(columns, axis=1).tolist():
            applies = self.space.applying(row)
            chances = zip(row, self.shares, applies, strict=True)
            likelihood = float(sum(np.log(share[choice]) for choice, share, holds in chances if holds))
            found = self.space.architecture(row)
            drawn[found] = max(likelihood, drawn.get(found, -np.inf))
        return drawn

    def _read(self, record: Mapping[str, Any]) -> None:
        """Takes probabilities and selection from the record of the stage.

        Raises:
            ConfigError: If they are not of this space.
        """
        try:
            found = from_json(Found, record["found"])
        except (KeyError, StoreError) as error:
            raise ConfigError(f"the stage 'pretrain' stored no differentiable search: {error}") from error
        options = [len(d.options) for d in self.space.decisions]
        if [len(row) for row in found.probabilities] != options or len(found.choices) != len(options):
            raise ConfigError(
                f"the architecture weights have rows of {[len(r) for r in found.probabilities]}, the "
                f"decisions of space {self.space.name!r} have {options} options: they are of another space"
            )
        if any(min(row) < 0 or sum(row) <= 0 for row in found.probabilities):
            raise ConfigError("the probabilities of the stage 'pretrain' are no probabilities")
        self.shares = [_normal(row) for row in found.probabilities]
        self.selected = self.space.architecture(found.choices)


def _normal(row: Sequence[float]) -> NDArray[np.float64]:
    shares = np.asarray(row, dtype=np.float64)
    shares /= shares.sum()  # which float32 is 1 only nearly
    return shares
