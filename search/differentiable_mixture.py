"""Architecture weights: the mixtures that follow from them, what they cost, and how they are changed.

alpha has one row per edge and one column per operation; what a mixture and its time follow from are the
shares of the operations, of the same shape.

* ``darts``: every operation, weighted by softmax(alpha) (Liu, Simonyan, Yang 2019 (ICLR), "DARTS:
  Differentiable architecture search", eq. 2); alpha by gradients of first order (xi = 0 in eq. 6), or of
  second order (``darts_second_order``, eq. 7 with the finite difference of eq. 8).
* ``gdas``: one operation per edge, drawn by the Gumbel-max trick; its gradient is that of the softmax with
  temperature tau (Dong, Yang 2019 (CVPR), "Searching for a robust neural architecture in four GPU hours",
  eq. 3 to 5).  Only what was drawn is computed, forwards and backwards.

An operation with alpha = -inf takes no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search.differentiable_supernet import Fixed, Mixture

Method = Literal["gdas", "darts", "darts_second_order"]
LatencyForm = Literal["log", "linear"]

TEMPERATURE = (10.0, 0.1)
"""tau of GDAS at the first and at the last epoch that changes alpha, linear between them (section 4.2
there, where all epochs do)."""

FINITE_STEP = 0.01
"""epsilon of DARTS's eq. 8 is this over the norm of the gradient (footnote 2 there)."""


def noisy(alpha: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """Shares with Gumbel noise, shape ``(edges, operations)`` (GDAS, eq. 3 and 4)."""
    uniform = np.clip(rng.random(tuple(alpha.shape)), 1e-12, 1.0 - 1e-12)
    noise = torch.from_numpy(-np.log(-np.log(uniform))).to(alpha.dtype)
    return ((alpha.log_softmax(-1) + noise) / temperature).softmax(-1)


def mixed(shares: Tensor, fixed: Sequence[Fixed | None] | None = None) -> Mixture:
    """All operations of every edge with their shares (DARTS); edges that are fixed have their one."""
    return [
        kept.terms() if kept is not None else list(enumerate(row))
        for row, kept in zip(shares, fixed or [None] * len(shares), strict=True)
    ]


def drawn(shares: Tensor) -> Mixture:
    """Of every edge the greatest share alone (GDAS), with a weight that is 1 and has the share's gradient."""
    chosen: list[int] = shares.argmax(-1).tolist()
    return [[(c, 1.0 - row[c].detach() + row[c])] for c, row in zip(chosen, shares, strict=True)]


@dataclass(frozen=True, eq=False)
class LatencyTerm:
    """The expected time of the network as a part of the loss (ProxylessNAS, section 3.3, eq. 2 and 3).

    ``linear``: weight x E / E0; ``log``: weight x ln(E / E0), whose pull grows as the network gets faster
    (FBNet's eq. 2 multiplies the loss by a power of the logarithm; here it is added).  E is what is fixed
    plus the sum over edges of share x the measured time of each operation, with the shares that the mixture
    has, GDAS's noise and temperature among them (as in FBNet, section 3): gradients of the loss and of E
    then have the same factor 1 / tau.  With softmax(alpha) instead, E would count 100 times as much at
    tau = 10 as at tau = 0.1.  E0 is E with equal shares, so that the weight has no unit.  Of several targets
    the slowest counts, each relative to its own E0.

    Attributes:
        edge_s: Of each target, edge and operation, all cells together [s], shape
            ``(targets, edges, operations)``.
        fixed_s: Of what is no cell [s], shape ``(targets,)``.
        weight: 0 for no such term.
        form: ``log`` or ``linear``.
    """

    edge_s: NDArray[np.float64]
    fixed_s: NDArray[np.float64]
    weight: float
    form: LatencyForm = "log"

    def expected_s(self, shares: Tensor) -> Tensor:
        """E of each target [s], shape ``(targets,)``; a sum of blocks, measured nowhere."""
        searched_s = (torch.from_numpy(self.edge_s) * shares.double()).sum((1, 2))
        return torch.from_numpy(self.fixed_s) + searched_s

    def __call__(self, shares: Tensor, equal: Tensor) -> Tensor:
        """What is added to the loss, a scalar; ``equal`` are the shares of E0."""
        if not self.weight or not len(self.fixed_s):
            return shares.new_zeros(())
        ratio = (self.expected_s(shares) / self.expected_s(equal)).max()
        return self.weight * (ratio.log() if self.form == "log" else ratio).to(shares.dtype)


Loss = Callable[[], Tensor]


def first_order(loss: Loss, alpha: Tensor) -> tuple[Tensor, float]:
    """Gradient of a loss by alpha at the weights as they are, and the loss."""
    value = loss()
    # Where every edge drew ``none``, nothing depends on alpha.
    (gradient,) = torch.autograd.grad(value, [alpha], allow_unused=True, materialize_grads=True)
    return gradient, float(value.detach())


@dataclass(frozen=True, eq=False)
class Unrolled:
    """The gradient by alpha after one step of the weights (DARTS, section 2.3).

    Attributes:
        parameters: Weights of the network, which are moved and put back.
        optimiser: Whose momentum and weight decay the step has; plain SGD.
    """

    parameters: Sequence[nn.Parameter]
    optimiser: torch.optim.Optimizer

    def __call__(self, train_loss: Loss, held_back_loss: Loss, alpha: Tensor) -> tuple[Tensor, float]:
        """Gradient of ``held_back_loss`` (eq. 7), and that loss.

        Args:
            train_loss: On the batch that the weights learn from.
            held_back_loss: On the batch that alpha learns from.
            alpha: Architecture weights.
        """
        rate = float(self.optimiser.param_groups[0]["lr"])
        before = [p.detach().clone() for p in self.parameters]
        try:
            self._move(self._step(train_loss()), -rate)
            value = held_back_loss()
            by_alpha, *by_weights = torch.autograd.grad(value, [alpha, *self.parameters])
            norm = float(torch.cat([g.flatten() for g in by_weights]).norm())
            size = FINITE_STEP / max(norm, 1e-12)
            sides = []
            for sign in (1.0, -1.0):
                self._put(before)
                self._move(by_weights, sign * size)
                sides.append(torch.autograd.grad(train_loss(), [alpha])[0])
        finally:
            self._put(before)
        return by_alpha - rate * (sides[0] - sides[1]) / (2 * size), float(value.detach())

    def _step(self, loss: Tensor) -> list[Tensor]:
        """What SGD would subtract, in units of its rate."""
        group = self.optimiser.param_groups[0]
        gradients = torch.autograd.grad(loss, self.parameters)
        moves = []
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            buffer = self.optimiser.state[parameter].get("momentum_buffer")
            move = gradient + group["weight_decay"] * parameter.detach()
            moves.append(move if buffer is None else move + group["momentum"] * buffer)
        return moves

    @torch.no_grad()
    def _move(self, directions: Sequence[Tensor], size: float) -> None:
        for parameter, direction in zip(self.parameters, directions, strict=True):
            parameter.add_(direction, alpha=size)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
