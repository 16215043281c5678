"""Trains the weights that all networks of a space share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from results.errors import TrainingError
from results.records import Fidelity, Score
from search.host_memory import is_out_of_memory
from search.network import Network
from search.space import SearchSpace
from search.supernet import Path, Supernet
from search.supernet_sampling import SMALLEST_BATCH, Sampler, SupernetPlan
from search.tasks import Task
from search.training import check_fits, evaluate, repeatable
from search.training_images import training_images
from search.training_run import Limits, TrainingRun
from search.user_code import last_lines

Weights = Mapping[str, NDArray[np.float32]]

RECALIBRATION_IMAGES = 512


@dataclass(frozen=True, eq=False)
class TrainedSupernet:
    """What training a supernet gave.

    Attributes:
        weights: The shared tensors.
        losses: Mean loss of each epoch.
        training_s: CPU time, trials with larger batches included [s].
        batch_size: Images of a step in the end.
        notes: What was not as planned, one sentence each.
    """

    weights: Weights = field(repr=False)
    losses: tuple[float, ...]
    training_s: float
    batch_size: int
    notes: tuple[str, ...] = ()


OnEpoch = Callable[[int, float], None]
"""Called with the number of epochs done and the mean loss of the last."""


def train_supernet(
    space: SearchSpace, task: Task, plan: SupernetPlan, seed: int, on_epoch: OnEpoch | None = None
) -> TrainedSupernet:
    """Trains shared weights in this process, on one thread; the same arguments give the same bytes.

    AdamW with a one-cycle learning rate, as for networks alone (:func:`search.training_run.one_cycle`).
    Where memory is short, training begins again with half the images per step.

    Args:
        space: Whose networks share the weights.
        task: What they learn.
        plan: How.
        seed: Weights to begin with, sampled networks and the order of the images follow from it.
        on_epoch: Told of every epoch.

    Raises:
        TrainingError: If it diverges, or there is no memory for :data:`SMALLEST_BATCH` images per step.
        ConfigError: If the networks do not fit the task.
    """
    notes: list[str] = []
    started_s = time.process_time()
    batch_size = plan.batch_size
    while True:
        try:
            with repeatable(seed):
                supernet, losses = _trained(space, task, plan, seed, batch_size, on_epoch)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                text = f"the training raised:\n{last_lines(error)}"
                raise TrainingError("supernet", text) from error
            if batch_size // 2 < SMALLEST_BATCH:
                message = f"no memory for batches of {batch_size} images; use smaller networks or images"
                raise TrainingError("supernet", message) from error
            notes.append(f"no memory for batches of {batch_size} images: {batch_size // 2} were used")
            batch_size //= 2
    seconds = time.process_time() - started_s
    return TrainedSupernet(supernet.weights, tuple(losses), seconds, batch_size, tuple(notes))


def _trained(
    space: SearchSpace,
    task: Task,
    plan: SupernetPlan,
    seed: int,
    batch_size: int,
    on_epoch: OnEpoch | None,
) -> tuple[Supernet, list[float]]:
    fidelity = Fidelity(plan.epochs, plan.subset)
    check_fits(space.build(space.sample(np.random.default_rng(seed))), task, fidelity)
    supernet = Supernet.of(space, seed)
    _, height, width = task.input_shape
    run = TrainingRun(nn.Identity(), task, fidelity, seed, size=(height, width), limits=Limits("supernet"))
    step = _Step(space, supernet, run, plan, steps=plan.epochs * run.steps(batch_size))
    for epoch in range(plan.epochs):
        losses = [step(images, targets) for images, targets in run.batches(batch_size)]
        run.curve.append(math.fsum(losses) / len(losses))
        if on_epoch is not None:
            on_epoch(epoch + 1, run.curve[-1])
    return supernet, run.curve


class _Step:
    """One update of the shared weights from one batch."""

    def __init__(
        self, space: SearchSpace, supernet: Supernet, run: TrainingRun, plan: SupernetPlan, *, steps: int
    ) -> None:
        self._space = space
        self._supernet = supernet
        self._run = run
        self._plan = plan
        self._sampler = Sampler(space, plan, run.seed)
        parameters = list(supernet.tensors.values())
        self._optimiser = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=0.02)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, plan.learning_rate, total_steps=steps
        )

    def __call__(self, images: Tensor, targets: Tensor) -> float:
        """Trains on a batch; the mean loss of the networks that took part."""
        taken = self._sampler.draw()
        self._optimiser.zero_grad(set_to_none=True)  # what no network used is not changed
        losses: list[float] = []
        taught: Tensor | None = None
        for architecture in taken:
            outputs = Path(self._supernet, self._space.build(architecture))(images)
            loss = self._loss(outputs, targets, taught)
            self._run.check_finite(loss.item())
            (loss / len(taken)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            if self._plan.sampling == "sandwich" and taught is None and self._run.task.loss is None:
                taught = outputs.detach().softmax(1)
        self._optimiser.step()
        self._schedule.step()
        return math.fsum(losses) / len(losses)

    def _loss(self, outputs: Tensor, targets: Tensor, taught: Tensor | None) -> Tensor:
        """The task's loss; cross entropy with what the largest network says where that is known."""
        if taught is not None:
            return F.cross_entropy(outputs, taught)
        return self._run.loss(outputs, targets)


def path_weights(supernet: Supernet, network: Network, task: Task) -> dict[str, NDArray[np.float32]]:
    """A network's weights out of a supernet, batch norm statistics recomputed from training images."""
    with repeatable(supernet.seed):
        images = training_images(task, network, RECALIBRATION_IMAGES)
        return Path(supernet, network).weights(torch.from_numpy(images))


def path_score(supernet: Supernet, network: Network, task: Task) -> Score:
    """Validation score of a network with its part of a supernet's weights, not trained by itself."""
    return evaluate(network, path_weights(supernet, network, task), task, "validation")
