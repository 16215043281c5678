"""Lower fidelity: rungs that rise, promotions of the best, one trial per candidate for the strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from results.errors import ConfigError
from results.fidelity import INHERITED, agreements, describe_fidelity, is_full, levels
from results.records import Architecture, Evaluation, Fidelity, Limit, Metric, Problem, Proposal, Score, Trial
from search.fidelity import SuccessiveHalving
from search.ladder import Ladder, geometric
from search.network import costs
from search.spaces.chain import Space
from search.strategies import nsga2, random_search
from search.strategy import Strategy

SPACE = Space(
    input_shape=(1, 16, 16),
    classes=10,
    stem_strides=[1],
    max_downsamplings=2,
    depths=[1, 2],
    widths=[4, 8],
    kernels=[3],
    blocks=["plain"],
    activations=["relu"],
    skips=[False],
)
FULL = Fidelity(18)
LADDER = Ladder((Fidelity(2), Fidelity(6), FULL))
PROBLEM = Problem((Metric("accuracy", maximise=True), Metric("macs")))

Accuracy = Callable[[Architecture, int], float]


def quality(architecture: Architecture) -> float:
    """Of a network that is fully trained, in 0..1: larger ones are better, with some luck."""
    luck = np.random.default_rng(architecture.choices).uniform(-0.1, 0.1)
    return float(0.5 + 0.06 * np.log(costs(SPACE.build(architecture)).macs / 1e4) + luck)


def learns(architecture: Architecture, epochs: int) -> float:
    """Accuracy after so many epochs: the order is the same at every rung."""
    return float(quality(architecture) * epochs / (epochs + 4))


def misleading(architecture: Architecture, epochs: int) -> float:
    """Accuracy that says nothing before the last rung."""
    noise = np.random.default_rng((epochs, *architecture.choices)).uniform(0.3, 0.7)
    return learns(architecture, epochs) if epochs >= FULL.epochs else float(noise)


def evaluated(trial: Trial, level: Fidelity, accuracy: Accuracy, problem: Problem = PROBLEM) -> Evaluation:
    proposal = trial.proposal
    macs = float(costs(SPACE.build(proposal.architecture)).macs)
    if any(macs > limit.upper for limit in problem.limits):
        return Evaluation(trial, "infeasible", network={"macs": macs})
    score = Score(accuracy(proposal.architecture, level.epochs), 1000)
    return Evaluation(trial, "complete", accuracy={"fp32": score}, network={"macs": macs}, training_s=1.0)


def searched(
    strategy: Strategy, accuracy: Accuracy = learns, *, in_flight: int = 3, problem: Problem = PROBLEM
) -> list[Evaluation]:
    """A whole search; what was told, in order."""
    told: list[Evaluation] = []
    pending: list[Trial] = []
    asked: list[Trial] = []
    while True:
        while len(pending) < in_flight:
            proposal = strategy.ask(len(asked), pending)
            if proposal is None:
                break
            trial = Trial(len(asked), proposal)
            asked.append(trial)
            pending.append(trial)
        if not pending:
            return told
        trial = pending.pop(0)
        told.append(evaluated(trial, levels(asked)[trial.number], accuracy, problem))
        strategy.tell(told[-1])


def halving(
    ladder: Ladder = LADDER,
    *,
    candidates: int = 27,
    problem: Problem = PROBLEM,
    kind: type[Strategy] | None = None,
) -> SuccessiveHalving:
    made = kind or random_search.Strategy
    return SuccessiveHalving(
        lambda: made(SPACE, problem, fidelity=ladder.rungs[-1], seed=1),
        SPACE,
        problem,
        ladder=ladder,
        candidates=candidates,
        seed=1,
    )


def rungs(told: list[Evaluation]) -> list[int]:
    return [e.trial.proposal.note["rung"] for e in told]


# --------------------------------------------------------------------------- the ladder


def test_geometric_rungs() -> None:
    assert [f.epochs for f in geometric(Fidelity(27), least_epochs=3, reduction=3)] == [3, 9, 27]
    assert [f.epochs for f in geometric(Fidelity(4), least_epochs=3, reduction=3)] == [4]


def test_a_promotion_gets_the_epochs_that_it_lacks() -> None:
    assert LADDER.training(1) == (Fidelity(4), True)
    assert LADDER.training(2) == (Fidelity(12), True)
    assert replace(LADDER, keep_weights=False).training(1) == (Fidelity(6), False)
    images = Ladder((Fidelity(2, resolution=8), Fidelity(6)))
    assert images.training(1) == (Fidelity(6), True)  # other images: all epochs, from the weights
    assert Ladder((Fidelity(2, width=0.5), Fidelity(6))).training(1) == (Fidelity(6), False)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (Fidelity(6), Fidelity(6)),
        (Fidelity(8), Fidelity(6)),
        (Fidelity(2, subset=1.0), Fidelity(6, subset=0.5)),
        (Fidelity(2), Fidelity(6, resolution=8)),
    ],
)
def test_rungs_rise(low: Fidelity, high: Fidelity) -> None:
    with pytest.raises(ConfigError, match="must rise"):
        Ladder((low, high))


def test_scores_of_shared_weights_are_below_any_training() -> None:
    ladder = Ladder((Fidelity(0), Fidelity(2, resolution=8), Fidelity(6)))
    assert ladder.training(1) == (Fidelity(2, resolution=8), True)
    with pytest.raises(ConfigError, match="must rise"):
        Ladder((Fidelity(0), Fidelity(0, resolution=8)))


def test_the_level_is_a_small_probability() -> None:
    with pytest.raises(ConfigError, match=r"probability from 0 to 0\.5"):
        Ladder(LADDER.rungs, level=0.5)


def test_hyperbands_brackets() -> None:
    ladder = replace(LADDER, brackets=3)
    starts = [ladder.bracket(i) for i in range(17)]
    # ceil(3 / (k + 1) * 3**k) candidates begin k rungs below the top: 9, 5 and 3 of 17.
    assert [starts.count(rung) for rung in range(3)] == [9, 5, 3]
    assert [LADDER.bracket(i) for i in range(5)] == [0] * 5


# --------------------------------------------------------------------------- the search


def test_one_of_three_goes_on_and_goes_on_with_its_weights() -> None:
    told = searched(halving())
    counts = [rungs(told).count(rung) for rung in range(3)]
    assert counts[0] == 27
    assert 9 <= counts[1] <= 13  # 9 at the end, and those that were among the best for a while
    assert 3 <= counts[2] <= 6
    assert 0 not in rungs(told)[-2:]
    by_number = {e.trial.number: e.trial for e in told}
    reached = levels(by_number.values())
    for evaluation in told:
        trial, rung = evaluation.trial, evaluation.trial.proposal.note["rung"]
        assert reached[trial.number] == LADDER.rungs[rung]
        if rung:
            parent = by_number[trial.proposal.weights_from]  # type: ignore[index]
            assert parent.proposal.architecture == trial.proposal.architecture
            assert parent.proposal.note["rung"] == rung - 1
    assert {e.trial.proposal.note["rung"] for e in told if is_full(reached[e.trial.number], FULL)} == {2}


def test_the_best_by_all_objectives_are_promoted() -> None:
    told = searched(halving(), in_flight=1)
    points = {
        e.trial.proposal.architecture: (quality(e.trial.proposal.architecture), e.network["macs"])
        for e in told
    }
    for evaluation in told[-2:]:  # the last promotions, which the whole rung was there for
        accuracy, macs = points[evaluation.trial.proposal.architecture]
        assert sum(a > accuracy and m < macs for a, m in points.values()) <= 3


def front(told: list[Evaluation]) -> set[tuple[float, float]]:
    """Accuracy and costs on the front of the full trainings."""
    reached = levels(e.trial for e in told)
    full = [e for e in told if is_full(reached[e.trial.number], FULL)]
    points = {(e.accuracy["fp32"].value, e.network["macs"]) for e in full}
    return {(a, m) for a, m in points if not any(b >= a and n <= m and (b, n) != (a, m) for b, n in points)}


def test_what_would_be_dominated_at_its_costs_is_not_promoted() -> None:
    rungs_ = (Fidelity(3), FULL)
    cautious = searched(halving(Ladder(rungs_, reduction=2, level=0.3)), in_flight=1)
    all_good = searched(halving(Ladder(rungs_, reduction=2, level=0.0)), in_flight=1)
    assert rungs(all_good).count(1) >= 13  # half of the candidates
    assert rungs(cautious).count(1) <= 0.8 * rungs(all_good).count(1)
    assert front(cautious) == front(all_good)


def test_what_breaks_a_limit_is_not_promoted() -> None:
    problem = replace(PROBLEM, limits=(Limit(Metric("macs"), 1.5e5),))
    told = searched(halving(problem=problem), problem=problem)
    assert "infeasible" in [e.state for e in told]
    assert all(e.state == "complete" for e in told if e.trial.proposal.note["rung"])
    assert 2 in rungs(told)


def test_a_resumed_search_asks_what_an_undisturbed_one_asks() -> None:
    told = searched(halving(), in_flight=1)
    for cut in (5, 17, 30):
        strategy = halving()
        for evaluation in told[:cut]:
            strategy.tell(evaluation)
        assert strategy.ask(cut, []) == told[cut].trial.proposal
        assert strategy.ask(cut, []) == told[cut].trial.proposal  # asking changed nothing


def test_brackets_begin_higher_up() -> None:
    told = searched(halving(replace(LADDER, brackets=2)))
    assert {e.trial.proposal.note["bracket"] for e in told} == {0, 1}
    first = [e.trial.proposal for e in told if e.trial.proposal.note["bracket"] == 1]
    assert Proposal(first[0].architecture, Fidelity(6), None, first[0].note) == first[0]


def test_the_strategy_within_sees_each_candidate_once_at_the_full_fidelity() -> None:
    strategy = halving(kind=nsga2.Strategy)
    told = searched(strategy)
    within = strategy._inner.history.outcomes  # type: ignore[attr-defined]
    assert len(within) == 27
    assert [o.number for o in within] == list(range(27))
    best = {e.trial.proposal.architecture: e for e in told}
    accuracy = PROBLEM.objectives[0]
    for outcome in within:
        highest = best[outcome.architecture]
        if highest.trial.proposal.note["rung"] == 2:
            assert outcome.figures[accuracy] == highest.accuracy["fp32"].value
        else:  # raised to what it would have: near it, as all networks gain alike here
            assert outcome.figures[accuracy] == pytest.approx(learns(outcome.architecture, 18), abs=0.08)


def test_a_rung_that_does_not_predict_is_raised() -> None:
    strategy = halving(replace(LADDER, reduction=2), candidates=60)
    told = searched(strategy, misleading)
    assert strategy.lowest > 0
    late = [e.trial.proposal for e in told if e.trial.proposal.weights_from is None][-1]
    assert late.fidelity.epochs >= 2
    honest = halving(replace(LADDER, reduction=2), candidates=60)
    searched(honest)
    assert honest.lowest == 0


def test_a_trial_without_a_rung_is_refused() -> None:
    trial = Trial(0, Proposal(next(SPACE.architectures()), FULL))
    with pytest.raises(ConfigError, match="belongs to no rung"):
        halving().tell(evaluated(trial, FULL, learns))
    strategy = halving()
    proposal = strategy.ask(0, [])
    assert proposal is not None
    evaluation = evaluated(Trial(0, proposal), Fidelity(2), learns)
    strategy.tell(evaluation)
    with pytest.raises(ConfigError, match="told before"):
        strategy.tell(evaluation)


# --------------------------------------------------------------------------- levels


def trial(
    number: int, epochs: int, parent: int | None = None, architecture: int = 0, **changes: float
) -> Trial:
    fidelity = Fidelity(epochs, **changes)  # type: ignore[arg-type]
    return Trial(number, Proposal(Architecture("space", (architecture,)), fidelity, parent))


def test_levels_count_the_epochs_of_the_weights() -> None:
    rows = [
        trial(0, 4),
        trial(1, 8, 0),  # a promotion
        trial(2, 4, 1, architecture=1),  # a child: as many as its own at most
        trial(3, 4, 2, architecture=2),
        trial(4, 8, 0, subset=0.5),  # other images
        trial(5, 8, 99),
    ]
    assert [level.epochs for level in levels(rows).values()] == [4, 12, 8, 8, 8, 8]
    (child, *_) = (replace(t, proposal=replace(t.proposal, note={INHERITED: 3})) for t in rows[2:3])
    assert levels([*rows[:2], child])[2] == Fidelity(7)  # of a rung of seven epochs, not of eight
    assert is_full(Fidelity(12), Fidelity(12))
    assert not is_full(Fidelity(11), Fidelity(12))
    assert not is_full(Fidelity(12, width=0.5), Fidelity(12))


def test_agreement_between_rungs() -> None:
    told = searched(halving(Ladder((Fidelity(2), FULL), reduction=2)))
    (found,) = agreements(told)
    assert (found.low, found.high, found.networks) == (Fidelity(2), FULL, rungs(told).count(1))
    assert found.tau is not None
    assert found.tau.value == pytest.approx(1.0)
    assert not found.misleads
    assert agreements([]) == []


def test_fidelities_in_words() -> None:
    assert describe_fidelity(Fidelity(2, subset=0.001)) == "2 epochs, 0.1% of the data"
    assert describe_fidelity(Fidelity(1)) == "1 epoch"
    assert describe_fidelity(Fidelity(3, 0.5, 0.5, 16)) == "3 epochs, 50% of the data, width x0.5, 16 pixels"
