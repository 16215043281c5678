"""What trainings that were not completed may have cost: known answers, and real trainings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from benchmarks import speedups_cache as cache
from benchmarks.speedups_search import EXAMPLES, FULL, Table
from benchmarks.speedups_search import PROBLEM as MEASURED
from results.promise import chance, log_odds
from results.records import (
    Architecture,
    Evaluation,
    Fidelity,
    Interval,
    Limit,
    Metric,
    Problem,
    Proposal,
    Score,
    Trial,
)
from results.risk import DRAWS, Risk, Unfinished, risks
from search import strategy
from search.fidelity import SuccessiveHalving
from search.ladder import Ladder
from search.space import SearchSpace

PROBLEM = Problem((Metric("accuracy", maximise=True), Metric("macs")), (Limit(Metric("parameters"), 100.0),))
MANY = 10**9
"""Examples of which an accuracy is known as good as exactly."""
GAINS = (0.8, 1.0, 1.2)
ERROR = 4 * math.sqrt(0.25 / DRAWS)
"""Four standard errors of a drawn share: a false alarm in 6e-5, were the seed not fixed."""


def evaluated(
    number: int, accuracy: float, macs: float | None, *, examples: int = MANY, parameters: float = 10.0
) -> Evaluation:
    network = {"parameters": parameters} | ({} if macs is None else {"macs": macs})
    trial = Trial(number, Proposal(Architecture("s", (number,)), Fidelity(1)))
    return Evaluation(trial, "complete", accuracy={"fp32": Score(accuracy, examples)}, network=network)


def left(number: int, accuracy: float, macs: float | None, gains: Sequence[float] = GAINS) -> Unfinished:
    return Unfinished(evaluated(number, accuracy, macs), "rung", tuple(gains))


def share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


def test_one_network_alone_has_the_chance_of_students_t() -> None:
    whole = [evaluated(0, share(1.2), 10.0)]
    found = risks([left(1, 0.5, 20.0)], whole, PROBLEM)
    assert found is not None
    wanted = chance(Score(0.5, MANY), Score(share(1.2), MANY), GAINS)
    assert found["rung"].any == found["rung"].expected == pytest.approx(wanted, abs=ERROR)
    assert found["rung"].near_ties == pytest.approx(0, abs=0.01)


def test_networks_that_would_take_one_place_are_lost_once() -> None:
    """Ten networks that are equal, far above the bar: one of them would be on the front."""
    whole = [evaluated(0, 0.5, 10.0)]
    found = risks([left(n, 0.9, 20.0) for n in range(1, 11)], whole, PROBLEM)
    assert found is not None
    assert found["rung"].expected == pytest.approx(1, abs=0.01)


def test_networks_that_share_their_gains_are_lost_together() -> None:
    """The gains' unknown mean and spread are common to all: six are not six independent chances."""
    whole = [evaluated(0, share(1.2), 1.0)]
    found = risks([left(n, 0.5, 10.0) for n in range(1, 7)], whole, PROBLEM)
    assert found is not None
    one = chance(Score(0.5, MANY), Score(share(1.2), MANY), GAINS)
    assert one + ERROR < found["rung"].any < 1 - (1 - one) ** 6 - ERROR


def test_a_hair_is_no_better_candidate() -> None:
    """Gains that are known: 0.75 against 0.74 of 500 examples [0.700, 0.776], then of very many."""
    exact = (share_gain := log_odds(Score(0.75, MANY)), share_gain, share_gain + 1e-9)
    for examples, better in ((500, 0), (MANY, 1)):
        whole = [evaluated(0, 0.74, 10.0, examples=examples)]
        found = risks([left(1, 0.5, 20.0, exact)], whole, PROBLEM)
        assert found is not None
        assert found["rung"].expected == pytest.approx(better, abs=0.01)
        assert found["rung"].near_ties == pytest.approx(1 - better, abs=0.01)


def test_the_forecast_of_an_ended_training() -> None:
    """Ends at 0.7 with 5 % above 0.8: a rival of 0.8 is beaten in 5 of 100 cases."""
    low = share(2 * log_odds(Score(0.7, MANY)) - log_odds(Score(0.8, MANY)))
    ended = Unfinished(evaluated(1, 0.3, 20.0), "curves", ends=Interval(low, 0.7, 0.8))
    found = risks([ended], [evaluated(0, 0.8, 10.0)], PROBLEM)
    assert found is not None
    assert found["curves"].expected == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / DRAWS))


def test_groups_are_rivals_of_each_other_and_counted_apart() -> None:
    ended = Unfinished(evaluated(1, 0.3, 20.0), "curves", ends=Interval(0.69, 0.7, 0.71))
    found = risks([ended, left(2, 0.9, 10.0)], [evaluated(0, 0.5, 5.0)], PROBLEM)
    assert found is not None
    assert found["rung"].any == pytest.approx(1, abs=0.01)
    assert found["curves"].any == pytest.approx(0, abs=0.01)  # the other is cheaper and better


def test_who_is_no_rival_and_what_cannot_be_lost() -> None:
    whole = [evaluated(0, 0.99, 10.0, parameters=101.0), evaluated(3, 0.99, None)]
    found = risks([left(1, 0.5, 20.0)], whole, PROBLEM)
    assert found is not None
    assert found["rung"].any == 1  # nothing that keeps the limits costs no more
    broken = Unfinished(evaluated(1, 0.9, 1.0, parameters=101.0), "rung", GAINS)
    again = left(0, 0.9, 1.0)
    found = risks([broken, again], [evaluated(0, 0.5, 10.0)], PROBLEM)
    assert found is not None
    assert (found["rung"].expected, found["rung"].any, found["rung"].near_ties) == (0, 0, 0)
    assert risks([left(1, 0.5, None)], whole, PROBLEM) is None
    assert risks([], whole, PROBLEM) == {}


def test_a_metric_of_which_less_is_better() -> None:
    problem = Problem((Metric("accuracy"), Metric("macs", maximise=True)))
    whole = [evaluated(0, share(-1.2), 20.0)]
    found = risks([left(1, 0.5, 10.0, [-g for g in GAINS])], whole, problem)
    assert found is not None
    wanted = chance(Score(0.5, MANY), Score(share(1.2), MANY), GAINS)
    assert found["rung"].any == pytest.approx(wanted, abs=ERROR)


# --------------------------------------------------------------------------- real trainings


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


def halved(table: Table, epoch: int, reduction: int) -> dict[Architecture, list[Evaluation]]:
    """Evaluations of each network in a successive halving over real curves and latencies.

    The lower rung is an early epoch of the cached full training, which tells the end worse than a short
    training that is annealed: a hard case.
    """
    candidates = [a for a in cache.candidates() if cache.macs_of(a.choices) <= cache.MOST_MACS]
    strategy = SuccessiveHalving(
        lambda: Listed(table.space, candidates),
        table.space,
        MEASURED,
        ladder=Ladder((Fidelity(epoch), FULL), reduction=reduction, known=1.0),
        candidates=len(candidates),
        seed=0,
    )
    found: dict[Architecture, list[Evaluation]] = {}
    while (proposal := strategy.ask(sum(map(len, found.values())), [])) is not None:
        trial = Trial(sum(map(len, found.values())), proposal)
        evaluation = reached(table, trial, epoch if proposal.note["rung"] == 0 else cache.EPOCHS)
        strategy.tell(evaluation)
        found.setdefault(proposal.architecture, []).append(evaluation)
    return found


def reached(table: Table, trial: Trial, epoch: int) -> Evaluation:
    choices = trial.proposal.architecture.choices
    accuracy = {"fp32": Score(table.fulls[choices].curve[epoch - 1], EXAMPLES)}
    measured, macs = {cache.TARGET.name: table.measurements[choices]}, float(cache.macs_of(choices))
    return Evaluation(trial, "complete", measured, accuracy, {"macs": macs})


class Listed(strategy.Strategy):
    """Asks for networks one after the other."""

    def __init__(self, space: SearchSpace, candidates: Sequence[Architecture]) -> None:
        super().__init__(space, MEASURED, fidelity=FULL, seed=0)
        self._candidates = candidates

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal | None:
        return Proposal(self._candidates[number], FULL) if number < len(self._candidates) else None

    def tell(self, evaluation: Evaluation) -> None:
        pass


def both_ways(table: Table, networks: Iterable[Sequence[Evaluation]]) -> tuple[Risk, Risk]:
    """The risk of a search as it is estimated, and as the cached trainings show it."""
    searched = list(networks)
    promoted = [group for group in searched if len(group) == 2]
    below = [group[0] for group in searched if len(group) == 1]
    gains = tuple(log_odds(b.accuracy["fp32"]) - log_odds(a.accuracy["fp32"]) for a, b in promoted)
    whole = [b for _, b in promoted]
    found = risks([Unfinished(e, "rung", gains) for e in below], whole, MEASURED)
    truth = risks([as_it_was(table, e) for e in below], whole, MEASURED)
    assert found is not None
    assert truth is not None
    return found["rung"], truth["rung"]


def test_what_is_estimated_is_about_what_real_searches_lose(table: Table) -> None:
    """No better candidate was lost in any of these; near ties are more than is said."""
    both = [
        both_ways(table, halved(table, cache.EPOCHS // parts, reduction).values())
        for parts in (12, 2)
        for reduction in (3, 6)
    ]
    better = np.mean([(found.expected, truth.expected) for found, truth in both], axis=0)
    ties = np.mean([(found.near_ties, truth.near_ties) for found, truth in both], axis=0)
    assert better[0] == pytest.approx(better[1], abs=1.0)
    assert ties[1] / 4 < ties[0] < ties[1] * 2
    assert np.mean([(found.any - truth.any) ** 2 for found, truth in both]) < 0.25


@pytest.mark.parametrize("parts", [12, 4, 2])
def test_what_is_estimated_is_about_what_chance_loses(table: Table, parts: int) -> None:
    """Where eight networks are promoted by lot, better ones are lost: about half as many as estimated."""
    rng, candidates = np.random.default_rng(3), list(table.fulls)
    trials = [Trial(i, Proposal(Architecture("space", c), FULL)) for i, c in enumerate(candidates)]
    ends = [reached(table, trial, cache.EPOCHS) for trial in trials]
    both = []
    for _ in range(20):
        lots = set(rng.choice(len(trials), 8, replace=False).tolist())
        rung = [reached(table, trial, cache.EPOCHS // parts) for trial in trials]
        both.append(both_ways(table, [[e, ends[i]] if i in lots else [e] for i, e in enumerate(rung)]))
    better = np.mean([(found.expected, truth.expected) for found, truth in both], axis=0)
    assert 0.8 * better[1] < better[0] < 2.5 * better[1]
    assert np.mean([(found.any - truth.any) ** 2 for found, truth in both]) < 0.25


def as_it_was(table: Table, evaluation: Evaluation) -> Unfinished:
    """A network whose end is known."""
    end = table.fulls[evaluation.trial.proposal.architecture.choices].curve[-1]
    return Unfinished(evaluation, "rung", ends=Interval(end, end, end))
