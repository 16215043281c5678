"""The stage `pretrain`: trains weights that all networks of the space share, and tells how well they rank.

Stored: kind ``pretrained``, key ``supernet`` (plan, weights as a checkpoint, losses, seconds), and kind
``correlated``, key 0 to ``correlate - 1``: random networks with the score of their part of the shared weights
and the score of a training of their own; ``not_correlated`` with the reason where one of the two failed.  A
stage that the store has is not run again.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np

from harness import checkpoints
from harness.pretrain_plan import Pretraining
from harness.resumption import task_hashes
from harness.rig import Rig
from results.codec import to_json
from results.errors import CandidateError, StoreError
from results.records import Architecture
from results.weight_sharing import misranking
from search.supernet import Supernet
from search.supernet_training import path_score, train_supernet
from search.training import TrainingJob, TrainingResult

SUPERNET = "supernet"


def pretrain(rig: Rig) -> None:
    """Trains the study's supernet, if it has one, unless the store has it; says so where it does not rank.

    Raises:
        TrainingError: If it diverges or finds no memory.
        StoreError: If a supernet that the store names is damaged.
    """
    wanted = rig.study.pretraining
    if wanted is None:
        return
    if rig.run.get("pretrained", SUPERNET) is None:
        rig.run.append("pretrained", SUPERNET, _trained(rig, wanted))
    supernet = stored_supernet(rig)
    if supernet is not None:
        _correlate(rig, wanted, supernet)
        misleading = misranking(rig.run)
        if misleading:
            rig.watcher.note(f"  {misleading}")


def stored_supernet(rig: Rig) -> Supernet | None:
    """The supernet that the store has, if it has one.

    Raises:
        StoreError: If it is named in the store but damaged or missing there.
    """
    body = rig.run.get("pretrained", SUPERNET)
    if body is None:
        return None
    try:
        weights = checkpoints.unpack(rig.store.blob(body["checkpoint"]))
    except StoreError as error:
        raise StoreError(f"the supernet's checkpoint cannot be read: {error}") from error
    return Supernet.trained(weights, body["seed"])


def _trained(rig: Rig, wanted: Pretraining) -> dict[str, Any]:
    plan, seed = wanted.plan, rig.study.seed
    rig.watcher.stage(
        f"pretrain: shared weights of all networks, {plan.epochs} epochs, {plan.sampling} paths"
    )

    def told(epoch: int, loss: float) -> None:
        rig.watcher.note(f"  epoch {epoch} of {plan.epochs}: mean loss {loss:.3f}")

    with rig.host.busy():
        found = train_supernet(rig.space, rig.task, plan, seed, told)
    for note in found.notes:
        rig.watcher.note(f"  {note}")
    return {
        "plan": to_json(plan),
        "seed": seed,
        "checkpoint": rig.store.put_blob(checkpoints.pack(found.weights)),
        "losses": list(found.losses),
        "training_s": found.training_s,
        "batch_size": found.batch_size,
        "notes": list(found.notes),
    }


def _correlate(rig: Rig, wanted: Pretraining, supernet: Supernet) -> None:
    """Scores random networks under shared weights and trained alone, those that the store lacks."""
    rng = np.random.default_rng((rig.study.seed, 17))
    drawn = [rig.space.sample(rng) for _ in range(wanted.correlate)]
    done = {int(r.key) for kind in ("correlated", "not_correlated") for r in rig.run.records(kind)}
    missing = [i for i in range(len(drawn)) if i not in done]
    if missing:
        rig.watcher.stage(f"pretrain: {len(missing)} networks trained alone, to be compared")
    alone = {i: _alone(rig, drawn[i], i) for i in missing}
    for i, future in alone.items():
        network = rig.space.build(drawn[i])
        try:
            with rig.host.busy():
                shared = path_score(supernet, network, rig.task)
            result = future.result()
        except CandidateError as error:
            rig.watcher.note(f"  random network {i} is not compared: {error}")
            rig.run.append("not_correlated", str(i), {"error": str(error)})
            continue
        body = {
            "architecture": to_json(drawn[i]),
            "shared": to_json(shared),
            "alone": to_json(result.score),
            "epochs": rig.study.fidelity.epochs,
            "training_s": result.training_s,
        }
        rig.run.append("correlated", str(i), body)


def _alone(rig: Rig, architecture: Architecture, number: int) -> Future[TrainingResult]:
    """Trains a network of its own as the study's trials are, in a worker."""
    study = rig.study
    job = TrainingJob(
        network=rig.space.build(architecture),
        task_name=study.task.name,
        task_options=dict(study.task.options),
        fidelity=study.fidelity,
        seed=int(np.random.default_rng((study.seed, number, 19)).integers(2**31)),
        time_limit_s=study.training_limit_s,
        device=study.device,
        task_hashes=task_hashes(rig.run),
    )
    return rig.pool.submit(job)
