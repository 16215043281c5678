"""Any sampler of Optuna (Akiba et al. 2019) as a strategy: ``name = "optuna:TPESampler"`` in a study.

Other keys of ``[strategy]`` go to the sampler.  What was told is given to it as a study of Optuna's
(:mod:`search.optuna_bridge`), limits as constraints; its random numbers follow from the seed and the number
of the trial, so asks are as repeatable as those of our own strategies.

Deviations: a suggestion that was tried before is failed and the sampler asked again, up to 20 times; then a
mutant of it is taken, as a network is not trained twice here.  Samplers that keep a state of their own
between asks (CMA-ES, quasi Monte Carlo) begin anew with each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from results.errors import ConfigError
from results.records import Architecture, Evaluation, Fidelity, Problem, Proposal, Trial
from search import strategy
from search.history import History
from search.novelty import new_mutant
from search.space import SearchSpace

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SUGGESTIONS = 20
"""Suggestions that are tried for one that is new."""


class Strategy(strategy.Strategy):
    """A sampler of Optuna.

    Args:
        sampler: Name of its class in ``optuna.samplers``.
        options: Further arguments of the class.

    Raises:
        ConfigError: If Optuna is not installed, or has no such sampler, or refuses the options.
    """

    def __init__(
        self,
        space: SearchSpace,
        problem: Problem,
        *,
        fidelity: Fidelity,
        seed: int,
        prior: Mapping[str, Any] | None = None,
        sampler: str = "TPESampler",
        **options: Any,
    ) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed, prior=prior)
        self.sampler = sampler
        self.options = options
        self.history = History(space, problem)
        self._sampler(0)

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """The sampler's next suggestion that is new, or a mutant of its last; see the base class."""
        from optuna.trial import TrialState

        from search import optuna_bridge

        rng = self.randomness(number)
        taken = self.history.taken(pending)
        with optuna_bridge.quietly():
            study = optuna_bridge.study_of(self.history, self._sampler(int(rng.integers(2**31))))
            study.add_trials(optuna_bridge.running(self.space, t.proposal.architecture) for t in pending)
            suggested: Architecture | None = None
            for _ in range(SUGGESTIONS):
                trial = study.ask()
                suggested = optuna_bridge.suggest(trial, self.space)
                if suggested not in taken:
                    asked = study.get_trials(deepcopy=False)[trial.number]
                    note = {optuna_bridge.ATTRIBUTES: _plain(asked.system_attrs)}
                    return Proposal(suggested, self.fidelity, note=note)
                study.tell(trial, state=TrialState.FAIL)
        mutant = None if suggested is None else new_mutant(self.space, suggested, rng, taken)
        return None if mutant is None else Proposal(mutant, self.fidelity)

    def tell(self, evaluation: Evaluation) -> None:
        """Remembers what came out; see the base class."""
        self.history.add(evaluation)

    def _sampler(self, seed: int) -> BaseSampler:
        try:
            from search import optuna_bridge
        except ImportError as error:
            raise ConfigError(
                "strategy 'optuna' needs Optuna: install it with pip install boardwise[optuna]"
            ) from error
        try:
            return optuna_bridge.sampler(self.sampler, seed=seed, **self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optuna:{self.sampler} with {self.options}: {error}") from error


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those attributes that can be stored."""
    return {k: v for k, v in attributes.items() if isinstance(v, bool | int | float | str)}
