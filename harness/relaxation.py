"""The stage `pretrain` of differentiable search: learns architecture weights on this host.

They are stored as kind ``pretrained``, key ``differentiable``: the plan, what was found with the curve of the
search, its seconds, and for each target the sum of the measured blocks of the selected network, which
the report shows beside the time of that network as it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.profile import profile
from harness.rig import Rig
from results.codec import to_json
from search.differentiable import Epoch, SearchPlan, search_cells
from search.differentiable_blocks import Blocks
from search.differentiable_mixture import LatencyTerm
from search.differentiable_spaces import blocks_of
from search.strategies import differentiable
from search.strategy import Strategy

KEY = "differentiable"


def pretrain_cells(
    rig: Rig, plan: SearchPlan, profiled_s: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Learns architecture weights, unless the store has them.

    Args:
        rig: What the study has in use.
        plan: How.
        profiled_s: Time of each block [s], by target name and block.

    Returns:
        The record, which is the strategy's ``prior["pretrain"]``.

    Raises:
        ConfigError: If the space has no known blocks, or a block was not profiled.
        TrainingError: If the training diverges.
    """
    body: dict[str, Any] | None = rig.run.get("pretrained", KEY)
    if body is None:
        rig.watcher.stage(f"pretrain: {plan.method} over all cells at once, {plan.epochs} epochs")
        body = _search(rig, plan, profiled_s)
        rig.run.append("pretrained", KEY, body)
    return body


def latency_term(
    blocks: Blocks, plan: SearchPlan, profiled_s: Mapping[str, Mapping[str, float]]
) -> LatencyTerm:
    """The latency term of a plan from a profile."""
    return LatencyTerm(
        edge_s=np.array([blocks.edge_s(times_s) for times_s in profiled_s.values()]),
        fixed_s=np.array([blocks.fixed_s(times_s) for times_s in profiled_s.values()]),
        weight=plan.latency_weight,
        form=plan.latency_form,
    )


def _search(rig: Rig, plan: SearchPlan, profiled_s: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    blocks = blocks_of(rig.space)

    def say(number: int, epoch: Epoch) -> None:
        rig.watcher.note(
            f"  epoch {number} of {plan.epochs}: loss {epoch.weight_loss:.3f}, {epoch.skips} skip connections"
        )

    started = time.monotonic()
    with rig.host.busy():
        found = search_cells(
            blocks,
            rig.task,
            plan,
            seed=rig.study.seed,
            latency=latency_term(blocks, plan, profiled_s),
            on_epoch=say,
        )
    selected = rig.space.architecture(found.choices)
    if found.stopped:
        rig.watcher.note(f"  stopped early: {found.stopped}")
    return {
        "plan": to_json(plan),
        "found": to_json(found),
        "architecture": to_json(selected),
        "sum_of_blocks_s": {n: blocks.total_s(selected, times_s) for n, times_s in profiled_s.items()},
        "training_s": found.search_s,
        "wall_s": time.monotonic() - started,
    }


def informed(rig: Rig, strategy: Strategy) -> Strategy:
    """The strategy with what the stages before the search find out; itself if it is not ``differentiable``.

    Raises:
        ConfigError: If the space has no known blocks.
        CandidateError: If a target cannot run a block.
        PreflightError: If a board gives nothing but invalid measurements.
        TrainingError: If the training of all networks at once diverges.
    """
    if not isinstance(strategy, differentiable.Strategy):
        return strategy
    return strategy.informed(pretrain_cells(rig, strategy.plan, profile(rig)))


def check_stages(strategy: Strategy) -> None:
    """Raises ConfigError if the stages before a search can do nothing for it; before anything is measured."""
    if isinstance(strategy, differentiable.Strategy):
        blocks_of(strategy.space)


def costs_before(strategy: Strategy) -> dict[str, Any]:
    """What the stages before a search take, for whoever asks before it is run; empty for most strategies."""
    if not isinstance(strategy, differentiable.Strategy):
        return {}
    plan, blocks = strategy.plan, blocks_of(strategy.space)
    return {
        "profiled_blocks_per_target": len(blocks.table),
        "pretrain_epochs": plan.epochs,
        "pretrain_method": plan.method,
    }
