"""The stage `profile`: how long each block of a space takes on each target.

Every distinct block is exported with initial weights and measured once per target; what is stored are the
raw sessions, as of any candidate.  A sum of blocks is no measurement: it guides a search
(:mod:`search.differentiable`) and is shown beside the time of the whole network, but never reaches a CSV.
"""

from __future__ import annotations

from harness.board import Board
from harness.deployment import kind_of, untrained_file
from harness.evaluate import SCREENS
from harness.export import Exported
from harness.measure import Job, measure
from harness.rig import Rig
from results.codec import from_json, to_json
from results.errors import PreflightError
from results.records import Measurement, Plan, Target
from results.statistics import judge, latency
from results.store import Run
from search.differentiable_blocks import Block
from search.differentiable_spaces import blocks_of
from search.network import initial_weights

PROFILE_PLAN = Plan("profile", sessions=(3, 6), half_width=0.05, session_s=0.05, warmup_s=0.02)
"""How a block is measured; the difference of two blocks is what counts, so more than a screen."""

PROFILE_PLAN_VIRTUAL = Plan(
    "profile", sessions=(1, 1), session_s=0.001, warmup_s=0.0, min_runs=10, max_runs=10, load_limit_s=600.0
)
"""The same in virtual time, where figures repeat to a few parts in ten thousand."""


def profile(rig: Rig) -> dict[str, dict[str, float]]:
    """Measures what the store does not have yet.

    Returns:
        Median time of each block [s], by target name and block.

    Raises:
        ConfigError: If the space has no known blocks.
        CandidateError: If a target cannot run a block.
        PreflightError: If a board gives nothing but invalid measurements.
    """
    table = blocks_of(rig.space).table
    rig.watcher.stage(f"profile: measuring {len(table)} blocks of the space on every target")
    for target in rig.study.targets:
        for name, block in table.items():
            key = f"{name}/{target.name}"
            if rig.run.get("profiled", key) is None:
                with rig.host.busy():
                    file = block_file(block, target, rig.study.seed)
                measurement = measure_block(rig.boards[target.device], target, name, file)
                rig.run.append("profiled", key, {"block": name, "measurement": to_json(measurement)})
    times_s = profiled_s(rig.run, rig.study.targets)
    for target in rig.study.targets:
        slowest = max(times_s[target.name], key=lambda name: times_s[target.name][name])
        rig.watcher.note(
            f"  {target.name}: slowest block {slowest}, {1e3 * times_s[target.name][slowest]:.3g} ms"
        )
    return times_s


def profiled_s(run: Run, targets: tuple[Target, ...]) -> dict[str, dict[str, float]]:
    """Median time of each block that was profiled [s], by target name and block."""
    times_s: dict[str, dict[str, float]] = {target.name: {} for target in targets}
    for record in run.records("profiled"):
        measurement = from_json(Measurement, record.body["measurement"])
        figure = latency(measurement, 0.5)
        if figure is not None and measurement.target.name in times_s:
            times_s[measurement.target.name][record.body["block"]] = figure.value
    return times_s


def measure_block(board: Board, target: Target, name: str, file: Exported) -> Measurement:
    """Measures the file of one block, again while the board spoils it.

    Raises:
        CandidateError: If the target cannot run it.
        PreflightError: If the board gives nothing but invalid measurements.
    """
    plan = PROFILE_PLAN_VIRTUAL if board.facts.emulated.endswith("virtual-time") else PROFILE_PLAN
    for _ in range(SCREENS):
        measurement = measure(board, Job(file.artifact, file.data, target, plan))
        verdict = judge(measurement)
        if verdict.state != "invalid":
            return measurement
    raise PreflightError(
        board.name, f"measured block {name} {SCREENS} times, never validly ({'; '.join(verdict.reasons)})"
    )


def block_file(block: Block, target: Target, seed: int) -> Exported:
    """The file by which a block is measured, with initial weights."""
    return untrained_file(block.network, initial_weights(block.network, seed), kind_of(target))
