"""A replay device gives back what was measured, power included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from devices.replay import ReplayAgent
from harness.board import Board
from harness.host import Host
from harness.measure import Job, measure, measure_together
from results import energy
from results.errors import RuntimeRefused
from results.records import Measurement, Plan
from tests.fixtures_results import make_session
from tests.power_scenes import Scene, measurement, record

SCENE = Scene(noise_w=0.05, active_s=2.0, idle_s=1.0)
SCREEN = Plan("screen", sessions=(1, 1), energy=True)


def stored(plateaus: int, **changes: Any) -> Measurement:
    """A measurement with one session and one plateau per agent."""
    taken = []
    for agent in range(plateaus):
        plateau, trace, fits = record(SCENE, np.random.default_rng(agent), agent)
        trace = replace(trace, plateau=agent, source=f"meter of agent {agent}")
        taken.append((plateau, trace, [replace(fit, plateau=agent) for fit in fits]))
    sessions = tuple(make_session([0.004] * 20, agent=agent) for agent in range(max(1, plateaus)))
    return replace(measurement(*taken), sessions=sessions, **changes)


def replayed(known: Measurement, plan: Plan) -> Measurement:
    board = Board("old", lambda: ReplayAgent("old", [known]), lambda: None, Host())
    job = Job(known.artifact, b"", known.target, plan)
    if plan.agents == 1:
        return measure(board, job)
    measure_together(board, [job], seed=1)
    return job.measurement(board.facts, board.origin)


def test_a_screen_has_the_energy_that_was_measured() -> None:
    known = stored(1)
    got = replayed(known, SCREEN)
    assert (got.origin, got.energy_note) == ("replayed", "")
    assert energy.interval(got) == energy.interval(known)


def test_every_agent_has_its_own_plateau() -> None:
    known = stored(3)
    got = replayed(known, Plan("confirm", sessions=(3, 3), agents=3, energy=True))
    assert [p.agent for p in got.plateaus] == [0, 1, 2]
    assert [(t.source, t.plateau) for t in got.traces] == [(f"meter of agent {k}", k) for k in range(3)]
    assert energy.interval(got) == energy.interval(known)


def test_more_agents_than_were_measured_begin_again() -> None:
    agent = ReplayAgent("old", [known := stored(2)])
    sources = []
    for number in (0, 5, 5, 5):
        found = agent.power(known.artifact, known.target, SCREEN, agent=number)
        assert not isinstance(found, str)
        plateau, [trace], _ = found
        assert plateau.agent == number
        sources.append(trace.source)
    assert sources == ["meter of agent 0", "meter of agent 0", "meter of agent 1", "meter of agent 0"]


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("", "replayed: no power was stored"),
        ("no power meter: use one", "replayed: when it was measured, no power meter: use one"),
    ],
)
def test_what_was_not_measured_is_not_replayed(note: str, said: str) -> None:
    got = replayed(stored(0, energy_note=note), SCREEN)
    assert energy.interval(got) is None
    assert got.energy_note == said
    assert len(got.sessions) == 1


def test_a_file_that_was_never_measured_is_refused() -> None:
    known = stored(1)
    agent = ReplayAgent("old", [known])
    with pytest.raises(RuntimeRefused, match="has never measured this file"):
        agent.power(replace(known.artifact, graph="other"), known.target, SCREEN, agent=0)
