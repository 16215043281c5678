"""The first stage of a study: one network of the space, measured on every target.

Its sessions tell how far sessions and agents of a target lie apart (a screen leans on that), its time on the
board tells which target is cheapest to ask first, and as it is the same network everywhere, its figures tell
deployments apart.  A network that cannot run on one of the targets makes room for another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.deployment import Kind, keeps_limits, kind_of, kinds_of, require_room, untrained_file
from harness.exporters import onnx
from harness.measure import Job, measure_together
from harness.resumption import network_hashes
from harness.rig import Rig
from results.codec import from_json, to_json
from results.errors import ArchitectureError, BoardwiseError, CandidateError
from results.records import Measurement, Plan, Target
from results.statistics import spread
from search.host_memory import require_host_room
from search.network import Network, costs, initial_weights

PREPARE_PLAN = Plan("reference", sessions=(12, 12), agents=6, session_s=0.1, warmup_s=0.05)
"""How the network is measured: for the spread between sessions and agents."""

PREPARE_PLAN_VIRTUAL = Plan(
    "reference", sessions=(4, 4), agents=2, session_s=0.01, warmup_s=0.0, min_runs=10, max_runs=10
)
"""The same in virtual time, where figures repeat to a few parts in ten thousand and each agent takes half a
minute of the host's time."""

NETWORKS = 5
"""Networks of a space of which none runs on all targets; then something else is wrong."""

LOOKED_AT = 100
"""Networks among which one is looked for that can be built and keeps the limits of its graph."""


def prepare(rig: Rig) -> None:
    """Measures one network of the space on every target, stores it, and sets the order of the targets.

    Raises:
        ArchitectureError, CandidateError: If :data:`NETWORKS` networks of the space cannot be built or cannot
            run on all targets; the last reason.
        BoardError: If a board stays away.
    """
    rig.watcher.stage("prepare: measuring one network on every target, over fresh agents")
    if Kind("onnx", "int8") in kinds_of(rig.study.targets) and onnx.saturates():
        rig.watcher.note(
            "  this host's CPU would cut off 8-bit sums; ONNX Runtime is kept from it (exact mode)"
        )
    bodies = {target: rig.run.get("prepared", target.name) for target in rig.study.targets}
    missing = [target for target, body in bodies.items() if body is None]
    if missing:
        sample = max((body.get("sample", 0) for body in bodies.values() if body is not None), default=0)
        for target, body in _measured(rig, missing, sample).items():
            rig.run.append("prepared", target.name, body)
            bodies[target] = body
    cost_s = {target.name: _use(rig, target, body) for target, body in bodies.items() if body is not None}
    rig.order = tuple(sorted(rig.study.targets, key=lambda target: cost_s[target.name]))


def _measured(rig: Rig, targets: Sequence[Target], sample: int) -> dict[Target, dict[str, Any]]:
    """Figures of a sample of the space on these targets, or of a later one if it cannot run on all of them.

    Nothing is stored before all are there; where some are stored from before, only that sample will do.
    """
    only = len(targets) < len(rig.study.targets)
    reasons: list[BoardwiseError] = []
    failed = 0
    for number, network in _networks(rig, sample, 1 if only else LOOKED_AT, reasons):
        try:
            with rig.blaming("a network"):
                found = {target: to_json(_measured_on(rig, network, target)) for target in targets}
            stored = {"sample": number, **network_hashes(network)}
            return {target: {"measurement": body, **stored} for target, body in found.items()}
        except (ArchitectureError, CandidateError) as error:
            reasons.append(error)
            failed += 1
            if failed == NETWORKS:
                break
            rig.watcher.note(f"  {error}; another network is taken")
    raise reasons[-1]


def _networks(
    rig: Rig, first: int, count: int, reasons: list[BoardwiseError]
) -> Iterator[tuple[int, Network]]:
    """Networks of the space with their numbers, each once; those that their graph alone rules out, last.

    Those that cannot be built, or that this machine cannot hold, are left out; why is added to ``reasons``.
    """
    rng = np.random.default_rng(rig.study.seed)
    drawn = [rig.space.sample(rng) for _ in range(first + count)][first:]
    beyond: list[tuple[int, Network]] = []
    for architecture in dict.fromkeys(drawn):
        number = first + drawn.index(architecture)
        try:
            with rig.blaming("a network"), rig.host.busy():
                network = rig.space.build(architecture)
                require_host_room(network)
        except (ArchitectureError, CandidateError) as error:
            reasons.append(error)
            continue
        if count > 1 and keeps_limits(network, rig.study.targets, rig.study.limits):
            yield number, network
        else:
            beyond.append((number, network))
    yield from beyond


def _measured_on(rig: Rig, network: Network, target: Target) -> Measurement:
    with rig.host.busy():
        file = untrained_file(
            network, initial_weights(network, rig.study.seed), kind_of(target), rig.metadata
        )
    board = rig.boards[target.device]
    require_room(file.artifact, board.facts, costs(network).activation_bytes)
    in_virtual_time = board.facts.emulated.endswith("virtual-time")
    plan = PREPARE_PLAN_VIRTUAL if in_virtual_time else PREPARE_PLAN
    job = Job(file.artifact, file.data, target, plan)
    measure_together(board, [job], seed=rig.study.seed)
    return job.measurement(board.facts, board.origin)


def _use(rig: Rig, target: Target, body: Mapping[str, Any]) -> float:
    """Takes the spread of a target over into the rig; gives the time that the board itself spent [s]."""
    measurement = from_json(Measurement, body["measurement"])
    found = rig.spread[target.name] = spread(measurement)
    ran_on = measurement.ran_on
    rig.watcher.note(
        f"  {target.name}: {ran_on.runtime} {ran_on.version}, {ran_on.provider}, sessions differ by "
        f"{found.sessions:.1%}, agents by {found.agents:.1%} (standard deviation)"
    )
    return board_time_s(measurement)


def board_time_s(measurement: Measurement) -> float:
    """Load, first, warm-up and timed runs of all sessions [s]."""
    return sum(
        s.load_s + s.cold_s + sum(s.durations_s) + s.warmup_runs * float(np.median(s.durations_s))
        for s in measurement.sessions
    )
