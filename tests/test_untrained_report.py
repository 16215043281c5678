"""What a report says of files before and after their training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from results.evaluations import History, history
from results.records import Environment, Plan
from results.report import report
from results.store import Run, Store
from results.untrained import effects, equivalence, mean_effect, note
from tests.fixtures_results import PI, ask, config, confirm, measured, simulated, told, trained


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Store.open(tmp_path / "store.sqlite") as store:
        yield store.begin("demo", config((PI,), []))


def confirmed(run: Run, slower: Sequence[float]) -> History:
    """Candidates whose trained files take so many times the time of the untrained ones."""
    rng = np.random.default_rng(5)
    for number, factor in enumerate(slower):
        median_s = 0.002 * (number + 1)
        ask(run, number)
        plan = Plan("screen", spread=0.004, spread_sessions=20)
        measured(run, number, simulated(rng, median_s, sessions=6, spread=0.004, plan=plan))
        trained(run, number, 0.9)
        told(run, number)
        confirm(run, number, median_s * factor)
    return history(run)


def test_a_report_says_where_training_changed_the_time(run: Run) -> None:
    known = confirmed(run, [1.10, 1.09, 1.11, 1.10])
    mean = mean_effect(effects(known, PI))
    assert mean is not None
    assert mean.low < 1.10 < mean.high
    assert equivalence(mean) == "different"
    text = report(known)
    assert "**Untrained and trained files**: trained files against untrained ones (p50): +" in text
    assert "in the mean over 4 candidates, **beyond 3 %: figures here that are not confirmed" in text
    assert "certainly not within it: trial 0 +" in text


def test_a_report_says_that_it_did_not(run: Run) -> None:
    assert "in the mean over 5 candidates, within 3 %: the same" in report(confirmed(run, [1.0] * 5))


def test_one_candidate_alone_that_is_off_is_named(run: Run) -> None:
    text = note(confirmed(run, [1.0] * 11 + [1.10]), PI)
    assert "over 12 candidates, within 3 %: the same; certainly not within it: trial 11 +" in text


def test_few_candidates_speak_for_themselves_and_none_say_nothing(run: Run) -> None:
    assert note(history(run), PI) == ""
    text = note(confirmed(run, [1.0, 1.10]), PI)
    assert "(p50): trial 0 " in text
    assert "**beyond 3 %" in text


def test_figures_of_two_states_of_a_board_say_nothing(run: Run) -> None:
    known = confirmed(run, [1.0])
    trial = known.trials[0]
    after = trial.confirmed[PI.name]
    trial.confirmed[PI.name] = replace(after, environment=Environment((("kernel", "6.12"),)))
    assert effects(known, PI) == []
