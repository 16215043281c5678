"""What a sped-up search of the speed-up benchmark risked, and what it lost.

See :mod:`benchmarks.speedups`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.speedups_search import PROBLEM, Outcome, Table, full_trainings, nondominated
from results.promise import LEAST_GAINS, bar, chance, log_odds
from results.rank_correlation import kendall
from results.records import Evaluation

Choices = tuple[int, ...]


def risk(table: Table, outcome: Outcome) -> dict[str, Any]:
    """Estimated, as a study's report does it, and in truth, as only a benchmark can.

    ``estimated`` has the expected number of networks not trained to their end that would have been on the
    front, and the probability that there is one, were they independent; None where too little is known.
    ``of_plain_front`` is the number of networks on the front of all cached full trainings (by validation
    accuracy and latency), ``not_trained`` how many of them the search did not train to their end.
    """
    whole = full_trainings(outcome)
    done = {_choices(e) for e in whole}
    best = plain_front(table)
    chances = [*outcome.chances.values(), *_left_below(outcome, whole)]
    estimated = None
    if None not in chances:
        known = [c for c in chances if c is not None]
        estimated = {"expected": sum(known), "any": 1 - math.prod(1 - c for c in known)}
    return {
        "not_trained_to_the_end": len(table.fulls) - len(done & table.fulls.keys()),
        "estimated": estimated,
        "of_plain_front": len(best),
        "not_trained": len(best - done),
    }


def plain_front(table: Table) -> set[Choices]:
    """Networks that no other full training dominates, by validation accuracy and latency."""
    choices = list(table.fulls)
    points = np.array([[1 - table.fulls[c].curve[-1], table.latency_s[c]] for c in choices])
    return {choices[i] for i in nondominated(points)}


def _left_below(outcome: Outcome, whole: list[Evaluation]) -> Iterator[float | None]:
    """Chance of each network that was left at its lowest rung; None where the gains are not known."""
    trained = {_choices(e): e for e in whole}
    lower = _first_rung(outcome)
    gains = [
        log_odds(trained[c].accuracy["fp32"]) - log_odds(e.accuracy["fp32"])
        for c, e in lower.items()
        if c in trained
    ]
    ended = {_choices(e) for e in outcome.evaluations if e.stopped}
    for choices, evaluation in lower.items():
        if choices in trained or choices in ended:
            continue
        if len(gains) < LEAST_GAINS:
            yield None
            continue
        to_beat = bar(evaluation, whole, PROBLEM)
        yield 1.0 if to_beat is None else chance(evaluation.accuracy["fp32"], to_beat, gains)


def _first_rung(outcome: Outcome) -> dict[Choices, Evaluation]:
    """Trainings below the full one, by network."""
    return {
        _choices(e): e
        for e in outcome.evaluations
        if e.state == "complete" and e.trial.proposal.note.get("rung") == 0
    }


def screening(table: Table, outcome: Outcome) -> dict[str, Any] | None:
    """How well the lowest rung ranks all candidates as their cached full trainings do, with other seeds."""
    lower = _first_rung(outcome)
    if not lower:
        return None
    tau = kendall(
        [e.accuracy["fp32"].value for e in lower.values()], [table.fulls[c].curve[-1] for c in lower]
    )
    return {
        "networks": len(lower),
        "tau": None if tau is None else asdict(tau),
        "seconds_each": statistics.fmean(e.training_s for e in lower.values()),
        "of_a_full_training": sum(e.training_s for e in lower.values())
        / sum(table.fulls[c].training_s for c in lower),
    }


def _choices(evaluation: Evaluation) -> Choices:
    return evaluation.trial.proposal.architecture.choices
