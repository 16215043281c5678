"""Samplers of Optuna as strategies, and our trials as a study of Optuna's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from harness import plugins
from harness.config import strategy_of
from harness.study import read_study
from results.errors import ConfigError
from results.records import Architecture, Evaluation, Fidelity, Metric, Problem, Proposal, Score, Trial
from search.history import History
from search.network import Network
from search.optuna_bridge import sampler, study_of, suggest
from search.space import Decision, SearchSpace
from tests.table_space import Table

FIDELITY = Fidelity(1)
COLUMN = "raspi4_latency_ms"
Strategy = plugins.load("strategies", "optuna").Strategy


class Plain(SearchSpace):
    """Decisions only; nothing here is built."""

    def __init__(self) -> None:
        super().__init__(
            "plain",
            [
                Decision("kind", ("none", "conv")),
                Decision("kernel", (1, 3, 5), only_if=(("kind", ("conv",)),)),
                Decision("width", (8, 16)),
            ],
        )

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        raise NotImplementedError


@pytest.fixture(scope="module")
def table() -> Table:
    plain = Table([COLUMN])
    return Table([COLUMN], limits={COLUMN: float(np.quantile(plain.costs[:, 0], 0.3))})


@pytest.mark.parametrize("name", ["TPESampler", "NSGAIISampler", "RandomSampler"])
def test_a_sampler_searches_under_limits_and_repeats_itself(table: Table, name: str) -> None:
    asked = []
    for _ in range(2):
        strategy = Strategy(table.space, table.problem(), fidelity=FIDELITY, seed=5, sampler=name)
        proposals = []
        for number in range(14):
            proposal = strategy.ask(number, ())
            assert proposal is not None
            strategy.tell(table.evaluate(Trial(number, proposal)))
            proposals.append(proposal)
        asked.append(proposals)
    assert asked[0] == asked[1]
    assert len({proposal.architecture for proposal in asked[0]}) == 14


def test_a_genetic_sampler_knows_its_generations_again() -> None:
    space, problem = Plain(), Problem((Metric("accuracy", maximise=True),))
    strategy = Strategy(space, problem, fidelity=FIDELITY, seed=0, sampler="NSGAIISampler", population_size=2)
    generations = []
    for number in range(6):
        proposal = strategy.ask(number, ())
        assert proposal is not None
        generations += [v for k, v in proposal.note.get("optuna", {}).items() if k.endswith("generation")]
        score = {"fp32": Score(0.1 * number, 100)}
        strategy.tell(Evaluation(Trial(number, proposal), "complete", accuracy=score))
    assert max(generations) >= 1


def test_only_decisions_that_apply_are_suggested() -> None:
    space = Plain()
    for kind, parameters in (("none", {"kind", "width"}), ("conv", {"kind", "kernel", "width"})):
        trial = optuna.trial.FixedTrial({"kind": kind, "kernel": 5, "width": 16})
        assert (
            space.describe(suggest(trial, space)).items() <= {"kind": kind, "kernel": 5, "width": 16}.items()
        )
        assert set(trial.params) == parameters


def test_an_objective_of_optunas_can_search_our_space() -> None:
    space = Plain()
    study = optuna.create_study(sampler=sampler("RandomSampler", seed=0))
    study.optimize(lambda trial: float(sum(suggest(trial, space).choices)), n_trials=120)
    assert {space.from_options(t.params) for t in study.trials} == set(space.architectures())


def test_told_trials_become_a_study_with_limits_as_constraints(table: Table) -> None:
    history = History(table.space, table.problem())
    rng = np.random.default_rng(0)
    for number in range(12):
        history.add(table.evaluate(Trial(number, Proposal(table.space.sample(rng), FIDELITY))))
    failed = Trial(12, Proposal(table.space.sample(rng), FIDELITY))
    history.add(Evaluation(failed, "failed", error="x"))
    screened = Trial(13, Proposal(table.space.sample(rng), FIDELITY, screen_only=True))
    history.add(Evaluation(screened, "screened"))
    study = study_of(history)
    assert len(study.trials) == 13
    accuracy, cost = history.problem.objectives
    for outcome, trial in zip(history.outcomes, study.trials, strict=False):
        assert table.space.from_options(trial.params) == outcome.architecture
        assert (trial.state == optuna.trial.TrialState.FAIL) == (outcome.state == "failed")
        if outcome.state != "failed":
            assert trial.values[1] == outcome.figures[cost]
            assert (trial.constraints["limits"] <= 0.0) == outcome.feasible
        if outcome.state == "complete":
            assert trial.values[0] == outcome.figures[accuracy]
    best = [table.space.from_options(t.params) for t in study.best_trials]
    feasible = [o for o in history.outcomes if o.feasible]
    assert set(best) <= {o.architecture for o in feasible}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "TPESample"}, "TPESampler"),
        ({"n_startup": 1}, "n_startup"),
        ({"sampler": "GridSampler"}, "Grid"),
    ],
)
def test_what_optuna_does_not_know_is_refused(table: Table, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Strategy(table.space, table.problem(), fidelity=FIDELITY, seed=0, **options)


STUDY = """
[task]
name = "digits"
[space]
name = "chain"
[strategy]
name = "optuna:NSGAIISampler"
population_size = 4
[[targets]]
device = "desk"
runtime = "tflite"
"""


def test_a_study_names_its_sampler(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    study = read_study(path)
    strategy = strategy_of(study, Plain(), study.problem("accuracy", maximise=True))
    assert isinstance(strategy, Strategy)
    assert (strategy.sampler, strategy.options) == ("NSGAIISampler", {"population_size": 4})
    path.write_text(STUDY.replace("optuna:NSGAIISampler", "nsga2:x").replace("population_size", "population"))
    study = read_study(path)
    with pytest.raises(ConfigError, match="sampler"):
        strategy_of(study, Plain(), study.problem("accuracy", maximise=True))
