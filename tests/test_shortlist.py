"""Candidates are measured before one of them is trained: who asks, in what order, and what it costs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.loop import Loop
from harness.progress import Watcher
from results.errors import ConfigError
from results.evaluations import evaluations
from results.records import Architecture, Evaluation, Fidelity, Metric, Problem, Proposal, Score, State, Trial
from results.store import Store
from search.calibration import FACTORS
from search.candidates import Neighbourhood
from search.frontier import frontier
from search.history import History
from search.shortlist import SHORTLIST, Shortlist, open_shortlist
from search.strategies import bayesian
from search.strategy import Strategy
from search.surrogate import Prediction
from tests.table_space import Table, TableSpace

FIDELITY = Fidelity(1)
COLUMN = "edgetpu_latency_ms"


@pytest.fixture(scope="module")
def table() -> Table:
    return Table([COLUMN])


def played(strategy: Strategy, table: Table, trainings: int) -> list[tuple[Proposal, Evaluation]]:
    """Proposals and results up to a number of trainings."""
    found: list[tuple[Proposal, Evaluation]] = []
    while sum(e.state == "complete" for _, e in found) < trainings:
        proposal = strategy.ask(len(found), ())
        assert proposal is not None
        evaluation = table.evaluate(Trial(len(found), proposal))
        strategy.tell(evaluation)
        found.append((proposal, evaluation))
    return found


def running(table: Table, seed: int) -> list[Architecture]:
    """Random architectures that run on the board."""
    rng = np.random.default_rng(seed)
    drawn = [table.space.sample(rng) for _ in range(60)]
    return [a for a in drawn if np.isfinite(table.costs[table.row(a), 0])]


def test_what_is_trained_was_measured_first_and_no_more_is_measured_than_allowed(table: Table) -> None:
    strategy = bayesian.Strategy(
        table.space, table.problem(), fidelity=FIDELITY, seed=4, start=4, shortlist=3
    )
    found = played(strategy, table, 12)
    assert strategy.measured_per_training == 3
    measured: set[Architecture] = set()
    trained = 0
    for proposal, evaluation in found:
        if proposal.screen_only:
            assert proposal.architecture not in measured, "nothing is measured twice"
            assert evaluation.state in ("screened", "failed")
        elif trained >= 4:
            assert proposal.architecture in measured
        measured.add(proposal.architecture)
        trained += evaluation.state == "complete"
        assert len(measured) <= max(3 * (trained + 1), 8), "the start has two per training at most"


def test_a_tight_limit_does_not_make_it_measure_without_end() -> None:
    """Once its measurements are used up it trains what probably keeps the limit, instead of trying on."""
    tightest = float(np.percentile(Table(["pixel3_latency_ms"]).costs, 5))
    tight = Table(["pixel3_latency_ms"], limits={"pixel3_latency_ms": tightest})
    strategy = bayesian.Strategy(
        tight.space,
        tight.problem(cost_objectives=False),
        fidelity=FIDELITY,
        seed=1,
        start=6,
        shortlist=2,
    )
    found = played(strategy, tight, 20)
    assert len({proposal.architecture for proposal, _ in found}) <= 2 * 20 + 10


def test_every_fourth_training_is_chosen_by_a_surrogate_half_as_sure(table: Table) -> None:
    strategy = bayesian.Strategy(
        table.space, table.problem(), fidelity=FIDELITY, seed=2, start=4, shortlist=2
    )
    trained, factors = 0, {True: set[float](), False: set[float]()}
    for proposal, evaluation in played(strategy, table, 13):
        note = proposal.note.get(SHORTLIST)
        if note is not None:
            factors[trained % bayesian.BOLD_EVERY == bayesian.BOLD_EVERY - 1].add(note["calibration"])
        trained += evaluation.state == "complete"
    least, most = FACTORS.min(), FACTORS.max()
    assert factors[False]
    assert all(least <= factor <= most for factor in factors[False])
    assert factors[True]
    assert all(least <= f / bayesian.BOLDNESS <= most for f in factors[True])


def test_other_encodings_of_a_network_are_trained_every_other_time_at_most_and_never_boldly() -> None:
    table, start = Table(["edgegpu_latency_ms", "edgegpu_energy_mj"]), 12
    strategy = bayesian.Strategy(table.space, table.problem(), fidelity=FIDELITY, seed=50, start=start)
    trained = [p.architecture for p, e in played(strategy, table, 40) if e.state == "complete"]
    networks = [(*table.space.features(a), *table.space.structure(a)) for a in trained]
    repeats = [network in networks[:i] for i, network in enumerate(networks)]
    assert sum(repeats[start:]) >= 3, "the noise of training is worth another draw of the cheapest network"
    for i in range(start, len(repeats)):
        bold = i % bayesian.BOLD_EVERY == bayesian.BOLD_EVERY - 1
        assert not repeats[i] or not (bold or repeats[i - 1])


class OneNetwork(TableSpace):
    """A space whose encodings all look alike."""

    def features(self, architecture: Architecture) -> np.ndarray[Any, Any]:
        return np.ones(1)

    def structure(self, architecture: Architecture) -> np.ndarray[Any, Any]:
        return np.ones(1)


def test_where_nothing_but_encodings_of_trained_networks_is_left_it_trains_those(table: Table) -> None:
    alike = Table([COLUMN])
    alike.space = OneNetwork()
    strategy = bayesian.Strategy(
        alike.space, alike.problem(), fidelity=FIDELITY, seed=0, start=2, shortlist=2
    )
    trained = [p.architecture for p, e in played(strategy, alike, 8) if e.state == "complete"]
    assert len(set(trained)) == 8


def test_the_best_of_a_shortlist_dominates_its_worse_twins(table: Table) -> None:
    """Of two that are expected to be equally accurate, the one that was measured to be faster is trained."""
    rng = np.random.default_rng(0)
    ran = [
        a for a in (table.space.sample(rng) for _ in range(60)) if np.isfinite(table.costs[table.row(a), 0])
    ]
    strategy = bayesian.Strategy(
        table.space, table.problem(), fidelity=FIDELITY, seed=0, start=2, shortlist=2
    )
    for number, architecture in enumerate(ran[:4]):
        strategy.tell(table.evaluate(Trial(number, Proposal(architecture, FIDELITY))))
    pair = sorted(ran[4:6], key=lambda a: float(table.costs[table.row(a), 0]), reverse=True)
    loss = Prediction(np.full(2, -4.0), np.full(2, 0.1))
    note = Shortlist(tuple(pair), loss, 1.0, True).note()
    for number, architecture in enumerate(pair, start=4):
        proposal = Proposal(architecture, FIDELITY, note=note, screen_only=True)
        strategy.tell(table.evaluate(Trial(number, proposal)))
    chosen = strategy.ask(6, ())
    assert chosen is not None
    assert not chosen.screen_only
    assert chosen.architecture == pair[1]


def test_a_shortlist_survives_its_note_and_others_are_ignored() -> None:
    space = TableSpace()
    history = History(space, Problem((Metric("accuracy", maximise=True),)))
    members = (space.architecture([3] * 6), space.architecture([1] * 6))
    found = Shortlist(members, Prediction(np.array([-2.0, -3.0]), np.array([0.1, 0.2]), 0.05), 1.2, True)
    pending = Trial(7, Proposal(members[0], FIDELITY, note=found.note(), screen_only=True))
    read = open_shortlist(space, history, [pending])
    assert read is not None
    assert read.members == members
    assert read.note() == found.note()
    for body in (3, {}, {"members": [[9] * 6], "calibration": 1, "log": True}, {"members": 1}):
        foreign = Trial(8, Proposal(members[0], FIDELITY, note={SHORTLIST: body}))
        assert open_shortlist(space, history, [pending, foreign]) is None


def test_what_was_only_screened_can_still_be_trained() -> None:
    space = TableSpace()
    history = History(space, Problem((Metric("accuracy", maximise=True),)))
    architecture = space.architecture([3] * 6)
    history.add(Evaluation(Trial(0, Proposal(architecture, FIDELITY, screen_only=True)), "screened"))
    assert history.taken(()) == set()
    assert set(history.screened) == {architecture}
    trial = Trial(1, Proposal(architecture, FIDELITY))
    history.add(Evaluation(trial, "complete", accuracy={"fp32": Score(0.9, 100)}))
    assert history.taken(()) == {architecture}
    assert history.screened == {}


def test_history_knows_what_was_tried_and_what_is_left_of_the_screened(table: Table) -> None:
    history = History(table.space, table.problem())
    rng = np.random.default_rng(5)
    drawn = (table.space.sample(rng) for _ in range(60))
    found = [a for a in drawn if np.isfinite(table.costs[table.row(a)]).all()]
    for number in (4, 0, 2):
        history.add(table.evaluate(Trial(number, Proposal(found[number], FIDELITY, screen_only=True))))
    history.add(table.evaluate(Trial(3, Proposal(found[2], FIDELITY))))
    assert history.latest is not None
    assert history.latest.number == 4  # the greatest, not the one told last
    assert list(history.screened) == [found[4], found[0]]
    assert history.known == set(history.metrics)
    waiting = Trial(5, Proposal(found[5], FIDELITY))
    assert history.tried([waiting]) == {found[i] for i in (0, 2, 4, 5)}
    assert history.taken([waiting]) == {found[2], found[5]}


def test_neighbours_are_those_of_the_space_each_once_and_no_more_than_asked_for(table: Table) -> None:
    neighbourhood = Neighbourhood(table.space)
    rng = np.random.default_rng(6)
    parents = [table.space.sample(rng) for _ in range(3)]
    expected = list(dict.fromkeys(near for parent in parents for near in table.space.neighbours(parent)))
    for _ in range(2):
        assert neighbourhood.of(parents, rng, 1000) == expected
    some = neighbourhood.of(parents, rng, 10)
    assert len(some) == 10
    assert [a for a in expected if a in set(some)] == some


def test_nothing_is_measured_where_there_is_nothing_to_learn_from_it(table: Table) -> None:
    problem = Problem((Metric("accuracy", maximise=True),))
    free = Table(["raspi4_latency_ms"])
    strategy = bayesian.Strategy(free.space, problem, fidelity=FIDELITY, seed=0, start=3)
    assert not any(proposal.screen_only for proposal, _ in played(strategy, free, 6))


def test_pending_trainings_count_on_the_front_as_they_are_expected(table: Table) -> None:
    history = History(table.space, table.problem())
    rng = np.random.default_rng(1)
    drawn = [
        a for a in (table.space.sample(rng) for _ in range(30)) if np.isfinite(table.costs[table.row(a)])
    ]
    for number, architecture in enumerate(drawn[:3]):
        history.add(table.evaluate(Trial(number, Proposal(architecture, FIDELITY))))
    note = {"predicted": {"mean": float(np.log(1e-3)), "deviation": 0.1, "log": True, "costs": [1e-6]}}
    front = frontier(history, [Trial(3, Proposal(drawn[3], FIDELITY, note=note))])
    assert front is not None
    assert front.losses == pytest.approx([1e-3])  # it dominates everything
    assert front.costs == pytest.approx(np.array([[1e-6]]))


@pytest.mark.parametrize("options", [{"shortlist": -1}, {"start": 0}])
def test_options_out_of_range_are_refused(table: Table, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="bayesian needs"):
        bayesian.Strategy(table.space, table.problem(), fidelity=FIDELITY, seed=0, **options)


# --------------------------------------------------------------------------- the loop


class Scripted(Strategy):
    """Asks for two screenings before every training, and remembers what happened."""

    def __init__(self, space: TableSpace) -> None:
        super().__init__(space, Problem((Metric("accuracy", maximise=True),)), fidelity=FIDELITY, seed=0)
        self.events: list[str] = []

    def ask(self, number: int, pending: Sequence[Trial]) -> Proposal:
        self.events.append(f"ask {number} with {[t.number for t in pending]}")
        architecture = self.space.sample(self.randomness(number))
        return Proposal(architecture, self.fidelity, screen_only=number % 3 != 2)

    def tell(self, evaluation: Evaluation) -> None:
        self.events.append(f"tell {evaluation.trial.number} {evaluation.state}")


def evaluated(trial: Trial) -> Evaluation:
    state: State = "screened" if trial.proposal.screen_only else "complete"
    return Evaluation(trial, state)


def loop(store: Store, name: str, strategy: Strategy, trials: int) -> Loop:
    return Loop(
        store.run(name),
        strategy.space,
        strategy,
        evaluated,
        trials=trials,
        in_flight=2,
        busy=contextlib.nullcontext,
        abort=lambda: None,
        watcher=Watcher(),
    )


CONFIG = {"targets": [], "problem": {"objectives": [{"name": "accuracy", "maximise": True}]}}


def test_screenings_are_told_at_once_and_trainings_in_order(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite") as store:
        store.begin("run", CONFIG)
        strategy = Scripted(TableSpace())
        loop(store, "run", strategy, 3).search()
        assert strategy.events == [
            *("ask 0 with []", "tell 0 screened", "ask 1 with []", "tell 1 screened", "ask 2 with []"),
            *("ask 3 with [2]", "tell 3 screened", "ask 4 with [2]", "tell 4 screened", "ask 5 with [2]"),
            "tell 2 complete",
            *("ask 6 with [5]", "tell 6 screened", "ask 7 with [5]", "tell 7 screened", "ask 8 with [5]"),
            *("tell 5 complete", "tell 8 complete"),
        ]
        assert [e.state for e in evaluations(store.run("run"))].count("complete") == 3


def test_a_resumed_run_is_told_in_the_order_in_which_it_was_told(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite") as store:
        store.begin("run", CONFIG)
        first = Scripted(TableSpace())
        loop(store, "run", first, 2).search()
        again = Scripted(TableSpace())
        loop(store, "run", again, 3).search()
        told = [event for event in first.events if event.startswith("tell")]
        assert again.events[: len(told)] == told
        assert again.events[len(told)] == "ask 6 with []"
