"""What follows a training epoch by epoch: the display, and whether it is to be ended."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from harness.progress import Watcher
from results.records import Evaluation
from search.learning_curve_stopping import Forecast, StopsEarly
from search.training import TrainingResult


class TrainingWatch:
    """Called after each epoch of one training.

    Args:
        known: The trial as far as it is known: with its measurements.
        watcher: Told every score.
        stopping: Tells whether a training is hopeless; None where all go on to their end.
    """

    def __init__(self, known: Evaluation, watcher: Watcher, stopping: StopsEarly | None) -> None:
        self._known = known
        self._watcher = watcher
        self._stopping = stopping
        self._curve: list[float] = []
        self._forecast: Forecast | None = None

    def __call__(self, epoch: int, score: float) -> bool:
        """Shows an epoch's score; True if there is to be no further one."""
        self._watcher.epoch(self._known.trial, epoch, score)
        self._curve = [*self._curve[: epoch - 1], score]
        if self._stopping is None:
            return False
        self._forecast = self._stopping.hopeless(self._known, self._curve)
        return self._forecast is not None

    def record(self, result: TrainingResult) -> dict[str, Any]:
        """What is stored of a training that was ended: the forecast, modelled, and the time it saved."""
        if not result.stopped or self._forecast is None:
            return {}
        epochs = self._known.trial.proposal.fidelity.epochs
        left = epochs / len(result.curve) - 1
        body = {
            "of": epochs,
            "saved_s": result.training_s * left,
            "origin": "modelled",
            **asdict(self._forecast),
        }
        return {"stopped": body}
