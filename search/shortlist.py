"""Candidates that are measured before one of them is trained.

A measurement costs seconds, a training minutes or hours; so a model-based strategy has a shortlist measured
by proposals that are ``screen_only``, and trains the one that is best by its measured costs.  The shortlist
travels in the notes of those proposals, with what was predicted when it was drawn up: so it is a function of
what was asked and told, and no model is fitted again to choose from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.errors import ArchitectureError
from results.records import Architecture, Trial
from search.history import History, Outcome
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

    def note(self) -> dict[str, Any]:
        """For a proposal."""
        body: dict[str, Any] = {
            "members": [list(member.choices) for member in self.members],
            "calibration": self.calibration,
            "log": self.log,
        }
        if self.loss is not None:
            body |= {"mean": self.loss.mean.tolist(), "deviation": self.loss.deviation.tolist()}
        return {SHORTLIST: body}


def open_shortlist(space: SearchSpace, history: History, pending: Sequence[Trial]) -> Shortlist | None:
    """The shortlist of the latest proposal, if that was a screening; None if nothing is being chosen."""
    asked = [(o.number, o.note) for o in history.outcomes]
    asked += [(t.number, t.proposal.note) for t in pending]
    _, note = max(asked, default=(-1, {}), key=lambda pair: pair[0])
    return _read(space, note.get(SHORTLIST))


def _read(space: SearchSpace, body: Any) -> Shortlist | None:
    """A shortlist of a note; None if that is not ours (another strategy's note may hold anything)."""
    try:
        members = tuple(space.architecture(choices) for choices in body["members"])
        loss = None
        if "mean" in body:
            loss = Prediction(np.array(body["mean"], float), np.array(body["deviation"], float))
        return Shortlist(members, loss, float(body["calibration"]), bool(body["log"]))
    except (ArchitectureError, KeyError, TypeError, ValueError):
        return None


def screenings(history: History, pending: Sequence[Trial]) -> int:
    """Number of candidates that were measured for a shortlist, told or pending."""
    notes = [outcome.note for outcome in history.outcomes] + [trial.proposal.note for trial in pending]
    return sum(SHORTLIST in note for note in notes)


def screened(history: History) -> Mapping[Architecture, Outcome]:
    """What is measured, meets the limits, and is not trained."""
    taken = history.taken(())
    return {
        o.architecture: o
        for o in history.outcomes
        if o.state == "screened" and o.violation == 0.0 and o.architecture not in taken
    }
