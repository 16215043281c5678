"""Weights that a trial begins its training with: another trial's, or its part of the supernet's.

What was taken over is stored as kind ``inherited``, key the trial's number, so that the trainings behind a
result can be counted (:mod:`results.lineage`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import checkpoints
from harness.pretrain import stored_supernet
from harness.rig import Rig
from results.codec import from_json
from results.errors import ArchitectureError, StoreError, TrainingError
from results.records import Trial
from search.morphism import Inherited, map_weights
from search.morphism_norms import settle
from search.network import Network
from search.supernet_training import path_weights
from search.training import repeatable
from search.training_images import training_images

Weights = Mapping[str, NDArray[np.float32]]

SETTLING_IMAGES = 256
"""Training images from which batch norms that a morphism put in take their statistics."""


def inherited(rig: Rig, trial: Trial, network: Network) -> Weights | None:
    """The weights that ``trial.proposal.weights_from`` names, mapped to the trial's network.

    A trial's number: its trained weights, unchanged where the network is the same, by a morphism where one
    leads to it, as far as they fit elsewhere.  ``"supernet"``: the network's part of the shared weights.
    It computes with PyTorch: call it while the host is busy, from one thread at a time.

    Args:
        rig: What the study has in use.
        trial: Whose training is to begin.
        network: What is trained, at the width and resolution of the trial's fidelity.

    Returns:
        None where the trial asks for fresh weights.

    Raises:
        TrainingError: If the named trial has no trained weights, or those of another network.
        StoreError: If they are named in the store but damaged or missing there.
    """
    source = trial.proposal.weights_from
    if source is None:
        return None
    if isinstance(source, int):
        made = _from_trial(rig, source, trial, network)
    else:
        made = _from_supernet(rig, source, network)
    body: dict[str, Any] = {
        "parent": source,
        "kind": made.kind if isinstance(source, int) else "shared",
        "preserved": made.preserved,
        "share": made.share_inherited,
        "reason": made.reason,
    }
    rig.run.append("inherited", str(trial.number), body)
    return made.weights


def _from_trial(rig: Rig, number: int, trial: Trial, network: Network) -> Inherited:
    parent, weights = _trained(rig, number, network)
    try:
        made = map_weights(parent, weights, network, seed=trial.number)
    except ArchitectureError as error:
        raise TrainingError(
            network.fingerprint, f"the checkpoint of trial {number} does not fit: {error}"
        ) from error
    if not made.adjusted:
        return made
    with repeatable(0):
        images = training_images(rig.task, network, SETTLING_IMAGES)
        settled = settle(network, made.weights, made.adjusted, images)
    return Inherited(settled, made.preserved, made.share_inherited, made.kind)


def _trained(rig: Rig, number: int, network: Network) -> tuple[Network, Weights]:
    """Network and weights of a trained trial."""
    asked, body = rig.run.get("asked", str(number)), rig.run.get("trained", str(number))
    if asked is None or body is None:
        what = "there is no such trial" if asked is None else "it was not trained"
        raise TrainingError(network.fingerprint, f"takes its weights from trial {number}, but {what}")
    proposal = from_json(Trial, asked["trial"]).proposal
    width, resolution = proposal.fidelity.width, proposal.fidelity.resolution
    parent = rig.space.build(proposal.architecture, width=width, resolution=resolution)
    try:
        return parent, checkpoints.unpack(rig.store.blob(body["checkpoint"]))
    except StoreError as error:
        raise StoreError(f"the checkpoint of trial {number} cannot be read: {error}") from error


def _from_supernet(rig: Rig, source: str, network: Network) -> Inherited:
    if source != "supernet":
        raise TrainingError(network.fingerprint, f"takes its weights from {source!r}: a trial or 'supernet'")
    supernet = stored_supernet(rig)
    if supernet is None:
        raise TrainingError(
            network.fingerprint, "takes its weights from the supernet, but none was trained: add [pretrain]"
        )
    return Inherited(path_weights(supernet, network, rig.task), False, 1.0, "overlap")
