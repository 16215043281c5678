"""Ends trainings that will hardly reach the front at their measured cost; around any strategy.

A network is on the front only if its score is better than that of everything that costs no more.  Its costs
are measured before it is trained, so the score that it has to beat is known, and after a few epochs its curve
says how probable it is that it will (:mod:`search.learning_curve`).  Once that probability falls below a
stated level the training is ended.

What is decided about a trial follows from those alone that were told when it was asked for (their number is
in its note), not from who happened to be ready sooner.  The strategy within is told the score that the
curve would have ended at; such modelled figures are for choosing, and enter no front.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from results.errors import ConfigError
from results.fidelity import is_full, levels
from results.promise import bar
from results.records import Evaluation, Fidelity, Interval, Proposal, Score, Trial
from search import strategy
from search.learning_curve import CurvePredictor

LEVEL = 0.05
"""Probability to reach the front below which a training is ended."""

_TOLD = "told_before"
"""Key of a proposal's note: how many trials had been told when it was asked for."""


@dataclass(frozen=True)
class Forecast:
    """What a curve promises.

    Attributes:
        bar: Score of the best network that costs no more.
        ends: Where the curve will end, with its 90 % interval; modelled.
        probability: That it ends better than the bar.
    """

    bar: float
    ends: Interval
    probability: float


class StopsEarly(strategy.Strategy):
    """A strategy whose hopeless trainings are ended.

    Args:
        within: The strategy.
        level: Probability below which a training is ended.
    """

    def __init__(self, within: strategy.Strategy, *, level: float = LEVEL) -> None:
        super().__init__(within.space, within.problem, fidelity=within.fidelity, seed=within.seed)
        if not 0 < level < 0.5:
            raise ConfigError(f"a training is ended below a probability between 0 and 0.5, got {level}")
        self._within = within
        self._level = level
        self._told: list[Evaluation] = []
        self._predictors: dict[tuple[int, Fidelity, bool], CurvePredictor] = {}
        self._lock = threading.Lock()

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        """What the strategy within proposes, with how many trials had been told."""
        proposal = self._within.ask(number, pending)
        if proposal is None:
            return None
        return replace(proposal, note={**proposal.note, _TOLD: len(self._told)})

    def tell(self, evaluation: Evaluation) -> None:
        """Tells the strategy within, of an ended training with the score that it would have reached."""
        told = evaluation
        if evaluation.stopped:
            forecast = self.forecast(evaluation, evaluation.learning_curve)
            if forecast is not None:
                told = replace(evaluation, accuracy=_modelled(evaluation, forecast.ends.value))
        with self._lock:
            self._told.append(evaluation)
        self._within.tell(told)

    def hopeless(self, evaluation: Evaluation, curve: Sequence[float]) -> Forecast | None:
        """The forecast of a training that should be ended now; None if it should go on.

        Args:
            evaluation: The trial as far as it is known: with its measurements.
            curve: Validation score after each epoch so far.
        """
        forecast = self.forecast(evaluation, curve)
        return forecast if forecast is not None and forecast.probability < self._level else None

    def forecast(self, evaluation: Evaluation, curve: Sequence[float]) -> Forecast | None:
        """What a curve promises; None where that is not known, or the training is not a full one."""
        trial = evaluation.trial
        with self._lock:
            seen = self._told[: trial.proposal.note.get(_TOLD, 0)]
        reached = levels([*(e.trial for e in seen), trial])
        if not is_full(reached[trial.number], self.fidelity):
            return None
        whole = [e for e in seen if _is_whole(e) and is_full(reached[e.trial.number], self.fidelity)]
        to_beat = bar(evaluation, whole, self.problem)
        mixture = self._predictor(trial, whole).predict(curve)
        if to_beat is None or mixture is None:
            return None
        above = mixture.probability_above(to_beat.value)
        probability = above if self.problem.maximise else 1.0 - above
        return Forecast(to_beat.value, mixture.interval(), probability)

    def _predictor(self, trial: Trial, whole: Sequence[Evaluation]) -> CurvePredictor:
        """Learnt from trainings of the same kind: as long, and from weights or not."""
        fidelity, inherits = trial.proposal.fidelity, trial.proposal.weights_from is not None
        alike = [
            e
            for e in whole
            if e.trial.proposal.fidelity == fidelity
            and (e.trial.proposal.weights_from is not None) == inherits
        ]
        key = len(alike), fidelity, inherits
        with self._lock:
            if key not in self._predictors:
                proportion = all(e.accuracy["fp32"].proportion for e in alike)
                self._predictors[key] = CurvePredictor(
                    [e.learning_curve for e in alike], proportion=proportion
                )
            return self._predictors[key]


def _is_whole(evaluation: Evaluation) -> bool:
    return evaluation.state == "complete" and "fp32" in evaluation.accuracy and not evaluation.stopped


def _modelled(evaluation: Evaluation, ends: float) -> dict[str, Score]:
    """Scores of all precisions moved by what the curve would still have gained."""
    gain = ends - evaluation.accuracy["fp32"].value
    return {
        name: score.of_value(
            min(1.0, max(0.0, score.value + gain)) if score.proportion else score.value + gain
        )
        for name, score in evaluation.accuracy.items()
    }
