"""What inherited and shared weights are worth: epochs saved by morphisms, order kept by a supernet.

``python -m benchmarks.weight_sharing --json FILE``

All trainings are real, on ``digits_in_photos`` (validation scores), in this process, on one thread.

* **Morphisms.**  Random networks of the chain space are trained for ``PARENT_EPOCHS``, grown by one change,
  and trained for ``CHILD_EPOCHS`` more.  The same child from fresh weights, for several numbers of epochs,
  tells how many it takes to be as accurate.  ``ratio`` is that number over the child's own epochs,
  ``ratio_counted`` over the parent's and its own.  The same with children that no morphism leads to
  (``overlap``).
* **Supernet.**  One per way of sampling, then ``NETWORKS`` random networks scored under shared weights, and
  trained alone.  ``tau`` is Kendall's rank correlation of the two scores with its 95 % interval.
* **Plain chains.**  The same on the 68 networks of :mod:`benchmarks.speedups_cache`, whose trainings alone
  (24 epochs, other seeds) are kept: many networks, so that the interval is narrow, but only numbers of
  stages and blocks, widths and strides differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import speedups_cache as cache
from results.codec import to_json
from results.rank_correlation import kendall
from results.records import Architecture, Fidelity
from search.datasets import load_task
from search.morphism import Inherited, map_weights
from search.morphism_norms import settle
from search.network import costs, initial_weights
from search.spaces.chain import Space
from search.supernet import Supernet
from search.supernet_sampling import SAMPLINGS, Sampling, SupernetPlan
from search.supernet_training import path_score, train_supernet
from search.tasks import Task
from search.training import TrainingJob, TrainingResult, repeatable, train
from search.training_images import training_images

TASK = "digits_in_photos"
SPACE: dict[str, Any] = {"depths": [1, 2], "max_downsamplings": 3, "activations": ["relu"]}
MACS = (0.5e6, 3e6)
"""Of the networks that take part: smaller ones learn little, larger ones take the benchmark's time."""

PARENT_EPOCHS = CHILD_EPOCHS = 4
SCRATCH_EPOCHS = (4, 6, 8, 12)
PAIRS = 5
NETWORKS = 18
ALONE_EPOCHS = 8
SUPERNET_EPOCHS: dict[Sampling, int] = {"uniform": 30, "fair": 10, "sandwich": 8}
"""Roughly equal CPU time: a step of ``fair`` trains three networks, one of ``sandwich`` four."""


def space_of(task: Task) -> Space:
    """The chain space of this benchmark."""
    return Space(input_shape=task.input_shape, classes=task.classes, **SPACE)


def sampled(space: Space, seed: int) -> Iterator[Architecture]:
    """Random networks of the sizes that take part, each once."""
    rng = np.random.default_rng(seed)
    seen: set[Architecture] = set()
    while True:
        architecture = space.sample(rng)
        if MACS[0] <= costs(space.build(architecture)).macs <= MACS[1] and architecture not in seen:
            seen.add(architecture)
            yield architecture


def trained(space: Space, architecture: Architecture, epochs: int, weights: Any = None) -> TrainingResult:
    """A training of one network."""
    job = TrainingJob(space.build(architecture), TASK, {}, Fidelity(epochs), seed=1, weights=weights)
    return train(job)


# --------------------------------------------------------------------------- morphisms


def morphisms(space: Space, task: Task) -> dict[str, Any]:
    """Epochs saved by grown and by overlapping children."""
    pairs: dict[str, list[dict[str, Any]]] = {"grown": [], "overlap": []}
    rng = np.random.default_rng(3)
    for parent in sampled(space, 3):
        missing = [kind for kind, found in pairs.items() if len(found) < PAIRS]
        if not missing:
            break
        child = space.mutate(parent, rng)
        if not MACS[0] <= costs(space.build(child)).macs <= MACS[1]:
            continue
        kind = map_weights(space.build(parent), _untrained(space, parent), space.build(child)).kind
        if kind in missing:
            pairs[kind].append(_pair(space, task, parent, child))
            _say(f"{kind} {len(pairs[kind])}: {pairs[kind][-1]}")
    return {kind: _summary(found) for kind, found in pairs.items()}


def _untrained(space: Space, architecture: Architecture) -> Any:
    return initial_weights(space.build(architecture), 0)


def _pair(space: Space, task: Task, parent: Architecture, child: Architecture) -> dict[str, Any]:
    before = trained(space, parent, PARENT_EPOCHS)
    made = map_weights(space.build(parent), before.weights, space.build(child), seed=1)
    after = trained(space, child, CHILD_EPOCHS, weights=_settled(space, task, child, made))
    scratch = {epochs: trained(space, child, epochs).score.value for epochs in SCRATCH_EPOCHS}
    epochs = epochs_to(after.score.value, scratch)
    return {
        "parent": before.score.value,
        "child_epoch_1": after.curve[0],
        "child": after.score.value,
        "scratch": scratch,
        "epochs_from_scratch": epochs,
        "at_least": after.score.value > max(scratch.values()),
        "ratio": epochs / CHILD_EPOCHS,
        "ratio_counted": epochs / (CHILD_EPOCHS + PARENT_EPOCHS),
        "changed": sum(a != b for a, b in zip(parent.choices, child.choices, strict=True)),
        "share_inherited": made.share_inherited,
    }


def _settled(space: Space, task: Task, child: Architecture, made: Inherited) -> Any:
    network = space.build(child)
    with repeatable(0):
        return settle(network, made.weights, made.adjusted, training_images(task, network, 256))


def epochs_to(accuracy: float, scratch: dict[int, float]) -> float:
    """Epochs from scratch to an accuracy: linear in log odds over log epochs, held at the ends.

    Beyond the longest training it is that training's epochs: a lower bound.
    """
    epochs = sorted(scratch)
    reached = np.maximum.accumulate([_logit(scratch[e]) for e in epochs])
    reached = reached + np.arange(len(epochs)) * 1e-9  # strictly rising, as interpolation wants it
    return float(math.exp(np.interp(_logit(accuracy), reached, np.log(epochs))))


def _logit(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return math.log(share / (1 - share))


def _summary(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pairs": len(pairs),
        "ratio": _geometric([p["ratio"] for p in pairs]),
        "ratio_counted": _geometric([p["ratio_counted"] for p in pairs]),
        "each": list(pairs),
    }


def _geometric(values: Sequence[float]) -> dict[str, float]:
    """Geometric mean with its 95 % t-interval on the log."""
    logs = np.log(values)
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    middle = float(logs.mean())
    return {"low": math.exp(middle - half), "value": math.exp(middle), "high": math.exp(middle + half)}


# --------------------------------------------------------------------------- supernet


def supernets(space: Space, task: Task) -> dict[str, Any]:
    """Rank correlation of each way of sampling, on the same networks trained alone."""
    taken = sampled(space, 5)
    architectures = [next(taken) for _ in range(NETWORKS)]
    alone = [trained(space, a, ALONE_EPOCHS) for a in architectures]
    scores = [result.score.value for result in alone]
    alone_s = sum(result.training_s for result in alone) / len(alone)
    _say(f"alone: {scores}, {alone_s:.1f} s each")
    found = {name: _supernet(space, task, architectures, scores, name) for name in SAMPLINGS}
    macs = [float(costs(space.build(a)).macs) for a in architectures]
    return {
        "networks": NETWORKS,
        "alone_epochs": ALONE_EPOCHS,
        "alone_s_per_network": alone_s,
        "alone": scores,
        "tau_of_macs": to_json(kendall(macs, scores)),
        "samplings": found,
    }


def plain_chains(space: Space, task: Task) -> dict[str, Any]:
    """Rank correlation on networks whose full trainings are kept; ``space`` is not theirs."""
    architectures = cache.candidates()
    known = cache.fulls()
    fulls = [known[a.choices, 0] for a in architectures]
    scores = [full.curve[-1] for full in fulls]
    return {
        "networks": len(fulls),
        "alone_epochs": cache.EPOCHS,
        "alone_s_per_network": sum(full.training_s for full in fulls) / len(fulls),
        "tau_of_macs": to_json(kendall([float(full.macs) for full in fulls], scores)),
        "samplings": {
            name: _supernet(cache.space(), task, architectures, scores, name) for name in SAMPLINGS
        },
    }


def _supernet(
    space: Space, task: Task, architectures: Sequence[Architecture], alone: Sequence[float], name: Sampling
) -> dict[str, Any]:
    plan = replace(SupernetPlan(), sampling=name, epochs=SUPERNET_EPOCHS[name])
    result = train_supernet(space, task, plan, seed=0)
    supernet = Supernet.trained(result.weights, 0)
    started_s = time.process_time()
    shared = [path_score(supernet, space.build(a), task).value for a in architectures]
    score_s = (time.process_time() - started_s) / len(architectures)
    tau = kendall(shared, alone)
    best = max(range(len(alone)), key=lambda i: alone[i])
    top = sorted(range(len(shared)), key=lambda i: -shared[i])[:3]
    body = {
        "epochs": plan.epochs,
        "training_s": result.training_s,
        "score_s_per_network": score_s,
        "tau": to_json(tau),
        "shared": shared,
        "lost_by_best_of_top_3": alone[best] - max(alone[i] for i in top),
    }
    _say(f"{name}: {body}")
    return body


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Runs the parts and writes the figures after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", choices=("morphisms", "supernets", "plain_chains"))
    args = parser.parse_args()
    task = load_task(TASK, {})
    space = space_of(task)
    parts = {"plain_chains": plain_chains, "supernets": supernets, "morphisms": morphisms}
    started_s = time.process_time()
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        if args.only in (None, name):
            figures[name] = part(space, task)
            figures["cpu_s"] = time.process_time() - started_s
            args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
