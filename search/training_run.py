"""One training under way: batches, loss, validation, limits; and Boardwise's own recipe.

A user's own ``train(module, run)`` gets the same :class:`TrainingRun` as the recipe here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from results.errors import TrainingError
from results.records import Fidelity, Option, Score
from search.arrays import nested_subset
from search.recipe import RECIPE, check_recipe
from search.tasks import Augmentation, Normalisation, Split, Task
from search.training_checkpoint import Checkpoint, Stateful

OnEpoch = Callable[[int, float], bool | None]
"""Called with the number of epochs done and the validation score after them; True ends the training there."""

_SHUFFLE, _AUGMENT = 1, 2
_EVALUATED_PIXELS = 256 * 32 * 32


class Stopped(Exception):
    """Whoever watches a training wants no further epoch of it; :func:`search.training.train` ends it."""


class Inputs:
    """A split as one tensor, from which batches are cut by index.

    Indexing one tensor costs 5 ms per epoch of 3,500 images where a DataLoader costs 69.  Pixels are
    kept as stored, channels last, and become floats batch by batch.

    Args:
        pixels: uint8 or float32 ``(n, c, h, w)``.
        normalisation: Makes inputs of them.
        size: ``(height, width)`` the network takes; images of another size are resized.
        device: Where they are kept and batches are made.
    """

    def __init__(
        self,
        pixels: NDArray[np.generic],
        normalisation: Normalisation,
        size: tuple[int, int],
        device: str = "cpu",
    ) -> None:
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        if tuple(tensor.shape[2:]) != size:
            tensor = _resized(tensor, size)
        self._pixels = tensor.permute(0, 2, 3, 1).contiguous().to(device)
        self._mean = torch.tensor(normalisation.mean, device=device)
        self._std = torch.tensor(normalisation.std, device=device)
        self._rows = torch.arange(size[0])
        self._columns = torch.arange(size[1])

    def __len__(self) -> int:
        return len(self._pixels)

    def batch(self, rows: Tensor) -> Tensor:
        """Inputs of these rows, float32 ``(b, c, h, w)``, channels last."""
        return self._floats(self._pixels[rows])

    def augmented(self, rows: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
        """Like :meth:`batch`, with the random changes of the augmentation."""
        n = len(rows)
        down, right = torch.from_numpy(
            rng.integers(-augmentation.shift, augmentation.shift + 1, (2, n, 1), np.int64)
        )
        mirrored = torch.from_numpy(rng.random((n, 1)) < 0.5) & augmentation.flip
        y = (self._rows + down).clamp(0, len(self._rows) - 1)
        x = (self._columns + right).clamp(0, len(self._columns) - 1)
        x = torch.where(mirrored, len(self._columns) - 1 - x, x)
        return self._floats(self._pixels[rows[:, None, None], y[:, :, None], x[:, None, :]])

    def _floats(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels ``(n, c, h, w)`` at another size, of the same type; bilinear, antialiased."""
    parts = []
    for start in range(0, len(pixels), 512):
        floats = F.interpolate(pixels[start : start + 512].float(), size, mode="bilinear", antialias=True)
        parts.append(
            floats.round_().clamp_(0, 255).to(pixels.dtype) if pixels.dtype == torch.uint8 else floats
        )
    return torch.cat(parts)


def outputs_of(module: nn.Module, inputs: Inputs) -> NDArray[np.float32]:
    """Outputs ``(n, outputs)`` of all rows in order, batch norm with its running statistics."""
    training = module.training
    module.eval()
    step = max(1, _EVALUATED_PIXELS // (len(inputs._rows) * len(inputs._columns)))
    with torch.inference_mode():
        rows = torch.arange(len(inputs))
        parts = [module(inputs.batch(rows[i : i + step])) for i in range(0, len(rows), step)]
    module.train(training)
    outputs: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return outputs


@dataclass(frozen=True)
class Limits:
    """How long a training may go on.

    Attributes:
        candidate: Name of the candidate in errors.
        time_limit_s: CPU time [s]; infinite for no limit.  CPU time, because a training that is paused
            while a board measures is not to blame for the pause.
    """

    candidate: str
    time_limit_s: float = math.inf


class TrainingRun:
    """A training under way, as a training function sees it.

    A training function that calls :meth:`keep` and goes on from ``len(run.curve)`` loses no more than the
    epoch under way when its process is killed, or the last seconds where epochs are as short
    (:mod:`search.training_checkpoint`); one that does not begins again.

    Args:
        module: What is trained.
        task: What it learns.
        fidelity: How much it gets to see.
        seed: Order of the images and their changes follow from it.
        limits: When to stop it.
        on_epoch: Told every validation score.
        checkpoint: Where its state is kept.
        settings: Settings of the training that are not as usual, such as ``{"learning_rate": 0.003}``.
        device: Where the module is, and batches are made.

    Attributes:
        epochs: Passes over the data that it is to take.
        seed: For whatever else is random.
        curve: Validation score after each epoch so far.
        task: What is learnt.
        settings: As given; which there are is for the training function to say.
    """

    def __init__(
        self,
        module: nn.Module,
        task: Task,
        fidelity: Fidelity,
        seed: int,
        *,
        size: tuple[int, int],
        limits: Limits,
        on_epoch: OnEpoch | None = None,
        checkpoint: Checkpoint | None = None,
        settings: Mapping[str, Option] | None = None,
        device: str = "cpu",
    ) -> None:
        self.settings = dict(settings or {})
        self.epochs = fidelity.epochs
        self.seed = seed
        self.task = task
        self.curve: list[float] = []
        self._module = module
        self._limits = limits
        self._on_epoch = on_epoch
        self._checkpoint = checkpoint or Checkpoint(None)
        self._before_s = 0.0
        self._started_s = time.process_time()
        train, validation = task.data.train, task.data.validation
        self._train = Inputs(train.pixels, train.normalisation, size, device)
        self._validation = Inputs(validation.pixels, validation.normalisation, size, device)
        self._targets = torch.from_numpy(train.labels).to(device)
        self._examples = nested_subset(train.labels[: train.examples], fidelity.subset)

    @property
    def training_s(self) -> float:
        """CPU time since the training began, that of a process which it was taken over from included [s]."""
        return self._before_s + time.process_time() - self._started_s

    def keep(self, **parts: Stateful) -> None:
        """Keeps the module and these parts as the training goes on, and takes on what was kept before.

        Afterwards ``curve`` has the epochs that are done.

        Args:
            parts: The optimiser, the schedule and whatever else changes, by name.
        """
        progress = self._checkpoint.attach(self._module, parts)
        if progress is not None:
            self.curve.extend(progress["curve"])
            self._before_s = progress["training_s"]

    def steps(self, batch_size: int = 64) -> int:
        """Number of batches of an epoch."""
        return math.ceil(len(self._examples) / batch_size)

    def batches(self, batch_size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of inputs ``(b, c, h, w)`` and targets ``(b, ...)``, shuffled and augmented.

        Batches are of nearly equal size, none larger than ``batch_size``.  Where examples have several
        variants, each epoch shows another one.

        Raises:
            TrainingError: When the time limit has passed.
        """
        epoch, train = len(self.curve), self.task.data.train
        order = np.random.default_rng((self.seed, _SHUFFLE, epoch)).permutation(self._examples)
        changes = np.random.default_rng((self.seed, _AUGMENT, epoch))
        first = (epoch % train.variants) * train.examples
        for part in np.array_split(first + order, self.steps(batch_size)):
            self._check_time()
            rows = torch.from_numpy(part)
            yield self._train.augmented(rows, self.task.augmentation, changes), self._targets[rows]

    def loss(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float = RECIPE["label_smoothing"]
    ) -> Tensor:
        """The task's loss; cross entropy with smoothed labels where it has none of its own."""
        if self.task.loss is not None:
            return _checked_loss(self.task.loss(outputs, targets), outputs)
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def end_epoch(self) -> float:
        """Validates, adds the score to the curve, and tells it to whoever watches.

        Raises:
            TrainingError: If the outputs are not finite, or the time limit has passed.
            Stopped: If whoever watches wants no further epoch.
        """
        value = self.validate(with_interval=False).value
        self.curve.append(value)
        self._checkpoint.save(self.curve, self.training_s)
        if self._on_epoch is not None and self._on_epoch(len(self.curve), value):
            raise Stopped
        self._check_time()
        return value

    def validate(self, *, with_interval: bool = True) -> Score:
        """Score of the module as it is on the validation split."""
        outputs, split = outputs_of(self._module, self._validation), self.task.data.validation
        return checked_score(self.task, outputs, split, self._limits.candidate, with_interval=with_interval)

    def check_finite(self, loss: float) -> None:
        """Raises TrainingError if a loss is not finite."""
        if not math.isfinite(loss):
            raise TrainingError(
                self._limits.candidate, f"diverged: the loss is {loss} in epoch {len(self.curve) + 1}"
            )

    def _check_time(self) -> None:
        if self.training_s > self._limits.time_limit_s:
            raise TrainingError(
                self._limits.candidate,
                f"longer than the time limit of {self._limits.time_limit_s:g} s of CPU time, "
                f"after {len(self.curve)} of {self.epochs} epochs",
            )


def _checked_loss(loss: Any, outputs: Tensor) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
        found = f"{type(loss).__name__}{shape}"
        raise TypeError(f"loss() is to return a tensor with a single number, it returned a {found}")
    if torch.is_grad_enabled() and outputs.requires_grad and not loss.requires_grad:
        raise TypeError("loss() is to return what depends on the outputs, so that it has a gradient")
    return loss


def checked_score(
    task: Task, outputs: NDArray[np.float32], split: Split, candidate: str, *, with_interval: bool = True
) -> Score:
    """The task's score of outputs, see :meth:`search.tasks.Task.score`.

    Raises:
        TrainingError: If outputs or score are not finite.
    """
    if not np.isfinite(outputs).all():
        raise TrainingError(candidate, "diverged: its outputs are not finite")
    score = task.score(outputs, split, with_interval=with_interval)
    if not math.isfinite(score.value):
        raise TrainingError(candidate, f"the metric {task.metric!r} gave {score.value}")
    return score


def one_cycle(module: nn.Module, run: TrainingRun) -> None:
    """Boardwise's own recipe: AdamW with a one-cycle learning rate, its numbers as in :mod:`search.recipe`.

    AdamW: Loshchilov and Hutter 2019, "Decoupled weight decay regularization"; one cycle: Smith and Topin
    2019, "Super-convergence".  The peak comes after 30 % of the steps.

    A training that begins with weights of another one (a promotion, a parent) goes through a whole cycle,
    too: the rate has come down to nothing where those ended.

    Raises:
        TrainingError: If the loss is not finite, or the time limit has passed.
        ConfigError: For a setting that this recipe does not have.
        Stopped: If whoever watches wants no further epoch.
    """
    recipe = check_recipe(run.settings)
    rate, batch_size = recipe["learning_rate"], int(recipe["batch_size"])
    steps = run.epochs * run.steps(batch_size)
    parameters = module.parameters()
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=recipe["weight_decay"], fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    run.keep(optimiser=optimiser, schedule=schedule)
    for _ in range(len(run.curve), run.epochs):
        for images, targets in run.batches(batch_size):
            loss = run.loss(module(images), targets, recipe["label_smoothing"])
            run.check_finite(loss.item())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        run.end_epoch()
