"""What a sped-up search of the speed-up benchmark risked, and what it lost.

See :mod:`benchmarks.speedups`.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.speedups_search import FULL, PROBLEM, Outcome, Table, full_trainings, nondominated
from results.rank_correlation import kendall
from results.records import Evaluation
from results.risk import Risk, risks, unfinished
from results.scores import wilson

Choices = tuple[int, ...]


def risk(table: Table, outcome: Outcome) -> dict[str, Any]:
    """Estimated, as a study's report does it, and in truth, as only a benchmark can.

    ``estimated`` has the risk by speed-up (:mod:`results.risk`); None where too little is known.
    ``of_plain_front`` is the number of networks on the front of all cached full trainings (by validation
    accuracy and latency), ``not_trained`` how many of them the search did not train to their end, and
    ``better`` how many of these were better candidates by their cached trainings: none of the search's full
    trainings that cost no more can be taken for as good.
    """
    whole = full_trainings(outcome)
    done = {_choices(e) for e in whole}
    best = plain_front(table)
    estimated = _estimated(outcome, whole)
    return {
        "not_trained_to_the_end": len(table.fulls) - len(done & table.fulls.keys()),
        "estimated": None if estimated is None else {name: asdict(r) for name, r in estimated.items()},
        "of_plain_front": len(best),
        "not_trained": len(best - done),
        "better": sum(_is_better(table, choices, whole) for choices in best - done),
    }


def _is_better(table: Table, choices: Choices, whole: list[Evaluation]) -> bool:
    """Whether its cached training beats the better end of every full training that costs no more."""
    cheaper = [e for e in whole if table.latency_s[_choices(e)] <= table.latency_s[choices]]
    accuracy = table.fulls[choices].curve[-1]
    return all(accuracy > wilson(e.accuracy["fp32"]).high for e in cheaper)


def plain_front(table: Table) -> set[Choices]:
    """Networks that no other full training dominates, by validation accuracy and latency."""
    choices = list(table.fulls)
    points = np.array([[1 - table.fulls[c].curve[-1], table.latency_s[c]] for c in choices])
    return {choices[i] for i in nondominated(points)}


def _estimated(outcome: Outcome, whole: list[Evaluation]) -> dict[str, Risk] | None:
    trained = [e for e in outcome.evaluations if e.state == "complete"]
    begun = unfinished(trained, outcome.ends, FULL)
    return risks(begun, whole, PROBLEM) if all(one.is_foreseen for one in begun) else None


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
