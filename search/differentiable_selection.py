"""Which cell a differentiable search ends with, where it is not that of the greatest architecture weights.

By perturbation: the operation without which the trained mixture suffers most.  Wang, Cheng, Chen, Tang, Hsieh
2021 (ICLR), "Rethinking architecture selection in differentiable NAS", algorithm 1: edges are decided one by
one in a random order; after each the rest of the mixture is trained further.  Deviation: what an operation is
worth is read from the loss instead of the accuracy, which on few images has ties.

By shared weights: of cells drawn from what was learnt, the one with the least loss under the weights of the
search, as in Guo et al. 2020 (ECCV), "Single path one-shot neural architecture search with uniform sampling";
Dong and Yang 2019 (ICCV), "One-shot neural architecture search via self-evaluated template network", draw
them from a learnt distribution, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from search.differentiable_mixture import mixed
from search.differentiable_supernet import Fixed, Mixture

if TYPE_CHECKING:
    from search.differentiable import Search

TUNED_EPOCHS = 1
"""Passes over the half of the weights after each decision."""

ORDER_SEED = 17

DRAWN = 100
"""Cells that are judged by shared weights, beside the favoured one."""

DRAW_SEED = 18


def select_by_perturbation(search: Search) -> tuple[int, ...]:
    """The operation of each edge; the network of ``search`` is trained further on the way."""
    edges = len(search.alpha)
    fixed: list[Fixed | None] = [None] * edges
    candidates = [i for i, name in enumerate(search.operations) if name != "none"] or [0]
    epoch = len(search.curve)
    for edge in np.random.default_rng(ORDER_SEED).permutation(edges):
        losses = {operation: _loss_without(search, fixed, int(edge), operation) for operation in candidates}
        fixed[edge] = Fixed(max(candidates, key=lambda operation: losses[operation]))
        for _ in range(TUNED_EPOCHS):
            for batch, _ in search.halves.batches(epoch, search.plan.batch_size):
                search.train_weights(batch, mixed(search.shares().detach(), fixed))
            epoch += 1
    return tuple(kept.operation for kept in fixed if kept is not None)


def _loss_without(search: Search, fixed: list[Fixed | None], edge: int, operation: int) -> float:
    """Loss with one operation of one edge left out."""
    mixture = list(mixed(search.shares(), fixed))
    mixture[edge] = [term for term in mixture[edge] if term[0] != operation]
    return _loss(search, mixture)


def select_by_shared_weights(search: Search) -> tuple[int, ...]:
    """The cell with the least loss on the half of the architecture weights, the term for latency included.

    Of :data:`DRAWN` cells that are drawn from the shares, and the favoured one.
    """
    shares = search.shares().detach().double().numpy()
    rng = np.random.default_rng(DRAW_SEED)
    cells = {search.favoured(): None}
    for _ in range(DRAWN):
        cells[tuple(int(rng.choice(len(row), p=row / row.sum())) for row in shares)] = None
    return min(cells, key=lambda cell: _loss_of(search, cell))


def _loss_of(search: Search, cell: tuple[int, ...]) -> float:
    alone = torch.nn.functional.one_hot(torch.tensor(cell), len(search.operations)).float()
    return _loss(search, [Fixed(operation).terms() for operation in cell]) + search.latency_loss(alone)


@torch.no_grad()
def _loss(search: Search, mixture: Mixture) -> float:
    """Mean loss of the half of the architecture weights.

    Batch norms use the statistics of the batch, since what reaches them changes with the mixture.
    """
    batches = search.halves.batches(0, 4 * search.plan.batch_size)
    return float(np.mean([float(search.loss(batch, mixture)) for _, batch in batches]))
