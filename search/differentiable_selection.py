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

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch

from search.differentiable_blocks import KEPT, Selected
from search.differentiable_mixture import mixed
from search.differentiable_supernet import Fixed, Mixture, terms_of

if TYPE_CHECKING:
    from search.differentiable import Search

TUNED_EPOCHS = 1
"""Passes over the half of the weights after each decision."""

ORDER_SEED = 17

DRAWN = 100
"""Cells that are judged by shared weights, beside the favoured one."""

DRAW_SEED = 18


def select_by_perturbation(search: Search) -> tuple[int, ...]:
    """First the operation of each edge, then which rival edges stay (algorithm 1 there, both phases).

    The network of ``search`` is trained further on the way.
    """
    blocks = search.blocks
    fixed: list[Fixed | None] = [None] * blocks.edges
    candidates = [i for i, name in enumerate(search.operations) if name != "none"] or [0]
    epoch = len(search.curve)

    def tune(dropped: Collection[int]) -> None:
        nonlocal epoch
        for _ in range(TUNED_EPOCHS):
            for batch, _ in search.halves.batches(epoch, search.plan.batch_size):
                search.train_weights(batch, _without(mixed(search.shares().detach(), fixed), dropped))
            epoch += 1

    for edge in np.random.default_rng(ORDER_SEED).permutation(blocks.edges):
        losses = {operation: _loss_without(search, fixed, int(edge), operation) for operation in candidates}
        fixed[edge] = Fixed(max(candidates, key=lambda operation: losses[operation]))
        tune(())
    dropped: set[int] = set()
    for group in np.random.default_rng(ORDER_SEED).permutation(len(blocks.rivals)):
        whole = mixed(search.shares().detach(), fixed)
        missed = {edge: _loss(search, _without(whole, {*dropped, edge})) for edge in blocks.rivals[group]}
        dropped.update(sorted(missed, key=lambda edge: -missed[edge])[KEPT:])
        tune(dropped)
    kept = [[edge for edge in group if edge not in dropped] for group in blocks.rivals]
    return blocks.choices(blocks.cell([f.operation for f in fixed if f is not None], kept))


def _without(mixture: Mixture, dropped: Collection[int]) -> Mixture:
    return [[] if edge in dropped else terms for edge, terms in enumerate(mixture)]


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
    cells = {search.blocks.select(shares): None}
    for _ in range(DRAWN):
        cells[search.blocks.draw(shares, rng)] = None
    return search.blocks.choices(min(cells, key=lambda cell: _loss_of(search, cell)))


def _loss_of(search: Search, cell: Selected) -> float:
    alone = torch.from_numpy(search.blocks.alone(cell)).float()
    return _loss(search, terms_of(cell, search.blocks.edges)) + search.latency_loss(alone)


@torch.no_grad()
def _loss(search: Search, mixture: Mixture) -> float:
    """Mean loss of the half of the architecture weights.

    Batch norms use the statistics of the batch, since what reaches them changes with the mixture.
    """
    batches = search.halves.batches(0, 4 * search.plan.batch_size)
    return float(np.mean([float(search.loss(batch, mixture)) for _, batch in batches]))
