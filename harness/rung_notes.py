"""Says while a search runs how well its lower rungs predict the higher ones."""

from __future__ import annotations

from harness.progress import Watcher
from results.fidelity import Agreement, agreements, describe_fidelity
from results.records import Evaluation, Fidelity, Trial
from results.speedups import tau_of

EVERY = 3
"""Networks more at both rungs after which the correlation is said again."""


class RungNotes(Watcher):
    """Passes on what the search loop tells, with a line whenever a rank correlation is known better.

    Args:
        watcher: Who is told.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._evaluations: list[Evaluation] = []
        self._said: dict[tuple[Fidelity, Fidelity], int] = {}

    def asked(self, trial: Trial) -> None:
        self._watcher.asked(trial)

    def told(self, evaluation: Evaluation) -> None:
        self._watcher.told(evaluation)
        self._evaluations.append(evaluation)
        for agreement in agreements(self._evaluations):
            rungs = agreement.low, agreement.high
            if agreement.tau is not None and agreement.networks >= self._said.get(rungs, 0) + EVERY:
                self._said[rungs] = agreement.networks
                self._watcher.note(_line(agreement))


def _line(agreement: Agreement) -> str:
    low, high = describe_fidelity(agreement.low), describe_fidelity(agreement.high)
    return (
        f"  {low} predict {high} with Kendall's tau {tau_of(agreement)} (95 %, {agreement.networks} networks)"
    )
