"""Differentiable search: architecture weights learnt together with the weights of all networks at once.

One half of the training split teaches the weights of the network, the other half the architecture weights
(bilevel, DARTS eq. 3 and 4 and algorithm 1); the validation split, by which trials are chosen later, is
seen by neither.  The same seed gives the same weights to the bit, on one thread of a CPU.

Against the collapse to skip connections: the search stops when the favoured cell has ``skips`` of them, and
gives the architecture weights of the epoch before (DARTS+: Liang et al. 2019, criterion 1); or operations are
chosen by how much the trained mixture suffers without them instead of by their weights
(:mod:`search.differentiable_selection`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from results.errors import ConfigError, TrainingError
from search.arrays import nested_subset
from search.differentiable_blocks import Blocks
from search.differentiable_mixture import (
    TEMPERATURE,
    LatencyForm,
    LatencyTerm,
    Method,
    Unrolled,
    drawn,
    first_order,
    mixed,
    noisy,
)
from search.differentiable_selection import select_by_perturbation, select_by_shared_weights
from search.differentiable_spaces import mixed_network
from search.differentiable_supernet import Mixture
from search.tasks import Task
from search.training import repeatable
from search.training_run import Inputs

METHODS: tuple[Method, ...] = ("gdas", "darts", "darts_second_order")
FORMS: tuple[LatencyForm, ...] = ("log", "linear")

LARGEST_GRADIENT = 5.0
"""Norm to which gradients of the network's weights are cut (DARTS, appendix A.1.1)."""

LEAD = 1.2
"""Times an equal share that a skip connection must have to count.  Deviation from DARTS+, which counts all
that are favoured: while architecture weights hardly differ, three of six edges favour one of four operations
by chance in 17 of 100 epochs."""

_SHUFFLE, _AUGMENT, _GUMBEL, _DEAL = 11, 12, 13, 14
"""Streams of randomness of a search, each apart from those of trainings."""


@dataclass(frozen=True)
class SearchPlan:
    """How architecture weights are learnt; as it stands, by the best measured row of docs/differentiable.md.

    Attributes:
        method: ``gdas``, ``darts`` (first order) or ``darts_second_order``.
        epochs: Passes over the half that teaches the weights.
        warmup: Of these the first, in which the architecture weights stay as they are; None for half of
            them.  Before the network has learnt anything, gradients by architecture weights are noise, and
            what is cheap or has no weights wins.
        batch_size: Images of a step, of each half.
        architecture_rate: Learning rate of the architecture weights (Adam).  Larger than the papers' 3e-4,
            which is for tens of thousands of steps: small tasks have hundreds.
        latency_weight: Of the measured latency in the loss; 0 for none.  GDAS wants a smaller one: its
            gradient says what more of the operation drawn would do, not what another one would.  At 0.1, e
            times the latency costs as much as 0.1 more cross entropy.
        latency_form: See :class:`search.differentiable_mixture.LatencyTerm`.
        skips: Skip connections in the favoured cell at which the search stops; 0 for never.  Those favoured
            by chance do not count, see :data:`LEAD`.
        selection: ``argmax`` of the architecture weights, ``perturbation`` (of DARTS only), or
            ``shared_weights`` (of GDAS only, whose weights belong to single cells).
    """

    method: Method = "darts"
    epochs: int = 12
    warmup: int | None = None
    batch_size: int = 64
    architecture_rate: float = 0.03
    latency_weight: float = 0.1
    latency_form: LatencyForm = "log"
    skips: int = 3
    selection: str = "argmax"

    def __post_init__(self) -> None:
        allowed = {"method": METHODS, "latency_form": FORMS, "selection": tuple(SELECTIONS)}
        for name, known in allowed.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"differentiable: {name} is one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if not 0 <= self.warm < self.epochs or self.batch_size < 2 or self.skips < 0:
            raise ConfigError(
                "differentiable needs 0 <= warmup < epochs, batch_size >= 2 and skips >= 0, got "
                f"{self.warm}, {self.epochs}, {self.batch_size} and {self.skips}"
            )
        if not 0 < self.architecture_rate < math.inf or not 0 <= self.latency_weight < math.inf:
            raise ConfigError(
                "differentiable needs architecture_rate > 0 and latency_weight >= 0, got "
                f"{self.architecture_rate} and {self.latency_weight}"
            )
        if self.selection == "perturbation" and self.method == "gdas":
            raise ConfigError("selection = 'perturbation' takes operations out of a mixture: gdas has none")
        if self.selection == "shared_weights" and self.method != "gdas":
            raise ConfigError(
                f"selection = 'shared_weights' judges single cells, which {self.method} never trains: "
                "use 'argmax' or 'perturbation', or method = 'gdas'"
            )

    @property
    def warm(self) -> int:
        """Epochs of warm-up."""
        return self.epochs // 2 if self.warmup is None else self.warmup


BEST: dict[str, tuple[int, float, str]] = {
    "gdas": (54, 0.01, "shared_weights"),
    "darts": (SearchPlan.epochs, SearchPlan.latency_weight, SearchPlan.selection),
    "darts_second_order": (8, 0.1, "argmax"),
}
"""Epochs, latency weight and selection of the best measured row of each method; of the last, which was not
measured, those of ``darts`` for as long as it takes."""


def plan_of(
    method: str, epochs: int | None, latency_weight: float | None, selection: str | None, **others: Any
) -> SearchPlan:
    """A plan; what is None is as in the best measured row of the method (:data:`BEST`).

    Raises:
        ConfigError: For an unknown method, or as of :class:`SearchPlan`.
    """
    best = BEST.get(method, BEST[SearchPlan.method])
    return SearchPlan(
        method=cast(Method, method),
        epochs=best[0] if epochs is None else epochs,
        latency_weight=best[1] if latency_weight is None else latency_weight,
        selection=best[2] if selection is None else selection,
        **others,
    )


@dataclass(frozen=True)
class Epoch:
    """What one epoch ended with.

    Attributes:
        weight_loss: Mean loss of the half that teaches the weights.
        architecture_loss: Mean loss of the other half, the latency term included; None in warm-up.
        skips: Skip connections in the favoured (normal) cell, those with a :data:`LEAD`.
        alpha: Architecture weights, shape ``(edges, operations)``.
        expected_s: Expected time on each target, by the sum of blocks [s]; measured nowhere.
    """

    weight_loss: float
    architecture_loss: float | None
    skips: int
    alpha: tuple[tuple[float, ...], ...]
    expected_s: tuple[float, ...]


@dataclass(frozen=True)
class Found:
    """What a differentiable search ends with.

    Attributes:
        alpha: Architecture weights, shape ``(edges, operations)``.
        probabilities: Of the options of every decision of the space; for NAS-Bench-201 softmax(alpha), in
            which ``none`` takes no part.
        choices: The cell that the method selects, as choices of the space.
        curve: What each epoch ended with.
        stopped: Why it stopped early; empty if it did not.
        search_s: CPU time [s], selection included.
    """

    alpha: tuple[tuple[float, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]
    choices: tuple[int, ...]
    curve: tuple[Epoch, ...]
    stopped: str
    search_s: float


OnEpoch = Callable[[int, Epoch], None]


def search_cells(
    blocks: Blocks,
    task: Task,
    plan: SearchPlan,
    *,
    seed: int,
    latency: LatencyTerm | None = None,
    on_epoch: OnEpoch = lambda number, epoch: None,
) -> Found:
    """Learns architecture weights.

    Args:
        blocks: Of the space; its images and classes are the task's.
        task: What the networks learn; only its training split is used.
        plan: How.
        seed: Everything random follows from it.
        latency: What is added to the loss; None for nothing.
        on_epoch: Called with the number of epochs done and what the last one ended with.

    Raises:
        TrainingError: If a loss is not finite.
    """
    with repeatable(seed):
        search = Search(blocks, task, plan, seed=seed, latency=latency)
        search.run(on_epoch)
        choices = SELECTIONS[plan.selection](search)
    return Found(
        alpha=rows_of(search.alpha),
        probabilities=tuple(map(tuple, blocks.probabilities(search.shares().detach().double().numpy()))),
        choices=choices,
        curve=tuple(search.curve),
        stopped=search.stopped,
        search_s=time.process_time() - search.started_s,
    )


class Halves:
    """The training split in two: rows for the weights, and rows for the architecture weights.

    Args:
        task: Whose training split is dealt.
        seed: Order and random changes of the images follow from it.
    """

    def __init__(self, task: Task, seed: int) -> None:
        train = task.data.train
        self._task, self._seed = task, seed
        self._inputs = Inputs(train.pixels, train.normalisation, task.input_shape[1:])  # type: ignore[arg-type]
        self._targets = torch.from_numpy(train.labels)
        self.weights = nested_subset(train.labels[: train.examples], 0.5)
        self.architecture = np.setdiff1d(np.arange(train.examples), self.weights)

    def batches(self, epoch: int, batch_size: int) -> Iterator[tuple[Batch, Batch]]:
        """One epoch: a batch of each half per step; where examples have variants, another one per epoch."""
        train = self._task.data.train
        order = np.random.default_rng((self._seed, _SHUFFLE, epoch))
        changes = np.random.default_rng((self._seed, _AUGMENT, epoch))
        first = (epoch % train.variants) * train.examples
        count = math.ceil(len(self.weights) / batch_size)
        halves = [
            np.array_split(first + order.permutation(h), count) for h in (self.weights, self.architecture)
        ]
        for pair in zip(*halves, strict=True):
            yield tuple(self._batch(rows, changes) for rows in pair)  # type: ignore[misc]

    def _batch(self, numbers: np.ndarray[Any, Any], changes: np.random.Generator) -> Batch:
        rows = torch.from_numpy(numbers)
        return self._inputs.augmented(rows, self._task.augmentation, changes), self._targets[rows]


Batch = tuple[Tensor, Tensor]


class Search:
    """A differentiable search under way.

    Attributes:
        blocks: Pieces of the space.
        network: All networks at once.
        halves: Its data.
        alpha: Architecture weights.
        curve: What the epochs so far ended with.
        stopped: Why it stopped early.
        started_s: CPU time at which it began [s].
    """

    def __init__(
        self,
        blocks: Blocks,
        task: Task,
        plan: SearchPlan,
        *,
        seed: int,
        latency: LatencyTerm | None = None,
    ) -> None:
        self.started_s = time.process_time()
        self.plan, self.blocks, self.operations = plan, blocks, blocks.operations
        self.network = mixed_network(blocks, seed)
        self.halves = Halves(task, seed)
        self.curve: list[Epoch] = []
        self.stopped = ""
        self._task, self._latency = task, latency
        self._noise = np.random.default_rng((seed, _GUMBEL))
        start = np.random.default_rng((seed, _DEAL)).standard_normal((blocks.edges, len(self.operations)))
        self.alpha = torch.zeros(start.shape, requires_grad=True)
        self._equal = self.shares().detach()
        with torch.no_grad():
            self.alpha.copy_(torch.from_numpy(1e-3 * start))
        self._optimiser = _optimiser(self.network.learned(), plan.method)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimiser, plan.epochs)
        self._adam = torch.optim.Adam(
            [self.alpha], plan.architecture_rate, betas=(0.5, 0.999), weight_decay=1e-3
        )
        self._unrolled = Unrolled(self.network.learned(), self._optimiser)

    def run(self, on_epoch: OnEpoch) -> None:
        """Trains until the epochs are over or the favoured cell collapses."""
        for epoch in range(self.plan.epochs):
            before = self.alpha.detach().clone()
            self.curve.append(self._epoch(epoch))
            on_epoch(epoch + 1, self.curve[-1])
            if 0 < self.plan.skips <= self.curve[-1].skips and epoch >= self.plan.warm:
                self.stopped = (
                    f"{self.curve[-1].skips} skip connections in the favoured cell after epoch {epoch + 1}"
                )
                with torch.no_grad():
                    self.alpha.copy_(before)
                return

    def eligible(self) -> Tensor:
        """alpha with -inf for ``none``, shape ``(edges, operations)``.

        What ``none`` is worth cannot be learnt: its share only scales what the others make, which a batch
        norm undoes (DARTS, section 2.4), and drawn by GDAS it makes nothing, so the gradient by its share is
        0, whether the network suffers without that edge or not.  A term for latency, to which it is the
        best of all, then ends at empty cells.
        """
        if "none" not in self.operations or len(self.operations) == 1:
            return self.alpha
        barred = torch.tensor([name == "none" for name in self.operations])
        return self.alpha.masked_fill(barred, -torch.inf)

    def shares(self) -> Tensor:
        """Probabilities of the operations, shape ``(edges, operations)``."""
        return self.eligible().softmax(-1)

    def favoured(self) -> tuple[int, ...]:
        """The cell with the greatest weights, as choices of the space."""
        return self.blocks.choices(self.blocks.select(self.shares().detach().double().numpy()))

    def latency_loss(self, shares: Tensor) -> float:
        """What the term for latency adds to a loss with these shares."""
        return float(self._latency(shares, self._equal)) if self._latency is not None else 0.0

    def loss(self, batch: Batch, mixture: Mixture) -> Tensor:
        """The task's loss of a batch; cross entropy with labels smoothed by 0.1 where it has none."""
        images, targets = batch
        outputs = self.network(images, mixture)
        if self._task.loss is not None:
            return self._task.loss(outputs, targets)
        return F.cross_entropy(outputs, targets, label_smoothing=0.1)

    def train_weights(self, batch: Batch, mixture: Mixture) -> float:
        """One step of the network's weights; the loss before it."""
        self._optimiser.zero_grad()
        loss = self.loss(batch, mixture)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.learned(), LARGEST_GRADIENT)
        self._optimiser.step()
        return self._finite(float(loss.detach()))

    def _epoch(self, epoch: int) -> Epoch:
        temperature = self._temperature(epoch)
        weight_losses, architecture_losses = [], []
        for for_weights, for_alpha in self.halves.batches(epoch, self.plan.batch_size):
            if epoch >= self.plan.warm:
                architecture_losses.append(self._change_alpha(for_weights, for_alpha, temperature))
            with torch.no_grad():
                mixture = self._mixture(self._relaxed(temperature))
            weight_losses.append(self.train_weights(for_weights, mixture))
        self._schedule.step()
        shares = self.shares().detach()
        return Epoch(
            weight_loss=float(np.mean(weight_losses)),
            architecture_loss=float(np.mean(architecture_losses)) if architecture_losses else None,
            skips=self._skips(shares),
            alpha=rows_of(self.alpha),
            expected_s=tuple(self._latency.expected_s(shares).tolist()) if self._latency else (),
        )

    def _skips(self, shares: Tensor) -> int:
        if "skip_connect" not in self.operations:
            return 0
        skip = self.operations.index("skip_connect")
        leads = shares[:, skip] > LEAD * self._equal[:, skip]
        favoured = self.blocks.select(shares.double().numpy())
        return sum(
            operation == skip and bool(leads[edge])
            for edge, operation in favoured
            if edge in self.blocks.normal
        )

    def _temperature(self, epoch: int) -> float:
        first, last = self.plan.warm, self.plan.epochs - 1
        share = max(0, epoch - first) / max(1, last - first)
        return TEMPERATURE[0] + share * (TEMPERATURE[1] - TEMPERATURE[0])

    def _relaxed(self, temperature: float) -> Tensor:
        """Shares of a step: softmax(alpha), of GDAS with noise and temperature."""
        if self.plan.method == "gdas":
            return noisy(self.eligible(), temperature, self._noise)
        return self.shares()

    def _mixture(self, shares: Tensor) -> Mixture:
        return drawn(shares) if self.plan.method == "gdas" else mixed(shares)

    def _change_alpha(self, for_weights: Batch, for_alpha: Batch, temperature: float) -> float:
        def held_back() -> Tensor:
            shares = self._relaxed(temperature)
            loss = self.loss(for_alpha, self._mixture(shares))
            return loss if self._latency is None else loss + self._latency(shares, self._equal)

        if self.plan.method == "darts_second_order":
            gradient, loss = self._unrolled(
                lambda: self.loss(for_weights, mixed(self.shares())), held_back, self.alpha
            )
        else:
            gradient, loss = first_order(held_back, self.alpha)
        self.alpha.grad = gradient
        self._adam.step()
        return self._finite(loss)

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise TrainingError("supernet", f"diverged: the loss is {loss} in epoch {len(self.curve) + 1}")
        return loss


SELECTIONS: dict[str, Callable[[Search], tuple[int, ...]]] = {
    "argmax": Search.favoured,
    "perturbation": select_by_perturbation,
    "shared_weights": select_by_shared_weights,
}


def _optimiser(parameters: list[torch.nn.Parameter], method: Method) -> torch.optim.Optimizer:
    """AdamW as in other trainings; for gradients of second order SGD, whose step they look through."""
    if method == "darts_second_order":
        return torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=3e-4)
    return torch.optim.AdamW(parameters, lr=6e-3, weight_decay=0.02)


def rows_of(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    """A matrix as plain numbers."""
    return tuple(tuple(float(v) for v in row) for row in matrix.detach())
