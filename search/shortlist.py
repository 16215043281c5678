"""Candidates that are measured before one of them is trained.

A measurement costs seconds, a training minutes or hours; so a model-based strategy has a shortlist measured
by proposals that are ``screen_only``, and trains the one that is best by its measured costs.  The shortlist
travels in the notes of those proposals, with what was predicted when it was drawn up: so it is a function of
what was asked and told, and no model is fitted again to choose from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.errors import ArchitectureError
from results.records import Architecture, Fidelity, Proposal, Trial
from search.belief import Belief, Floats, Forecast, improvement
from search.frontier import PREDICTED, Scale, frontier, known_costs, values_of
from search.history import History
from search.space import SearchSpace
from search.surrogate import Prediction

SHORTLIST = "shortlist"
"""Key in the note."""


@dataclass(frozen=True)
class Shortlist:
    """Candidates from the most promising one on, with what is predicted of them.

    Attributes:
        members: Candidates, ``n`` of them.
        loss: Modelled loss of the first objective, not calibrated; None if nothing was trained.
        calibration: Factor of its standard deviation.
        log: Whether the logarithm of the loss is modelled.
    """

    members: tuple[Architecture, ...]
    loss: Prediction | None
    calibration: float
    log: bool

    @classmethod
    def of(cls, members: Sequence[Architecture], belief: Belief) -> Shortlist:
        """With what is believed now."""
        loss = None if belief.accuracy is None else belief.accuracy.predict(belief.inputs(members))
        log = belief.accuracy is not None and belief.accuracy.scale.log
        return cls(tuple(members), loss, belief.calibration, log)

    def best(self, rows: Sequence[int], history: History, pending: Sequence[Trial]) -> tuple[int, Floats]:
        """The member, of some rows that are measured, that improves the front most; and its costs ``(c,)``.

        Its cost is known, so only its accuracy is integrated over; the first where nothing is known yet.
        """
        known = history.screened
        metrics = known_costs(history)
        scales = [Scale.of(metric, values_of(history, metric)) for metric in metrics]
        figures = [known[self.members[row]].figures for row in rows]
        costs = np.array(
            [[s.loss(np.array([f[m]]))[0] for m, s in zip(metrics, scales, strict=True)] for f in figures]
        ).reshape(len(rows), len(metrics))
        front = frontier(history, pending)
        accuracy = history.problem.objectives[0]
        scale = Scale.of(accuracy, values_of(history, accuracy))
        # What came out since may not fit the scale of the prediction, such as a score below 0 among shares.
        if self.loss is None or front is None or self.log != scale.log:
            return rows[0], costs[0]
        loss = self.loss.take(rows).rescaled(self.calibration)
        forecast = Forecast(loss, costs, np.zeros_like(costs), np.ones(len(rows)))
        place = int(improvement(forecast, front, scale, scales).argmax())
        return rows[place], costs[place]

    def training(self, row: int, costs: Floats, fidelity: Fidelity) -> Proposal:
        """A training of a member; what is expected of it stands in the note."""
        if self.loss is None:
            return Proposal(self.members[row], fidelity)
        predicted = {
            "mean": float(self.loss.mean[row]),
            "deviation": float(self.loss.deviation[row]),
            "noise": self.loss.noise,
            "log": self.log,
            "costs": costs.tolist(),
        }
        return Proposal(self.members[row], fidelity, note={PREDICTED: predicted})

    def note(self) -> dict[str, Any]:
        """For a proposal."""
        body: dict[str, Any] = {
            "members": [list(member.choices) for member in self.members],
            "calibration": self.calibration,
            "log": self.log,
        }
        if self.loss is not None:
            body |= {
                "mean": self.loss.mean.tolist(),
                "deviation": self.loss.deviation.tolist(),
                "noise": self.loss.noise,
            }
        return {SHORTLIST: body}


def open_shortlist(space: SearchSpace, history: History, pending: Sequence[Trial]) -> Shortlist | None:
    """The shortlist of the latest proposal, if that was a screening; None if nothing is being chosen."""
    asked = [(t.number, t.proposal.note) for t in pending]
    if history.latest is not None:
        asked.append((history.latest.number, history.latest.note))
    _, note = max(asked, default=(-1, {}), key=lambda pair: pair[0])
    return _read(space, note.get(SHORTLIST))


def _read(space: SearchSpace, body: Any) -> Shortlist | None:
    """A shortlist of a note; None if that is not ours (another strategy's note may hold anything)."""
    try:
        members = tuple(space.architecture(choices) for choices in body["members"])
        loss = None
        if "mean" in body:
            mean, deviation = np.array(body["mean"], float), np.array(body["deviation"], float)
            loss = Prediction(mean, deviation, float(body["noise"]))
        return Shortlist(members, loss, float(body["calibration"]), bool(body["log"]))
    except (ArchitectureError, KeyError, TypeError, ValueError):
        return None
