"""Spaces that differentiable search knows: pieces and mixed network of each."""

from __future__ import annotations

from results.errors import ConfigError
from search.cell_networks import DartsNetworks, NasBench201Networks
from search.differentiable_blocks import Blocks, CellBlocks
from search.differentiable_darts import DartsBlocks
from search.differentiable_supernet import MixedCells, MixedDartsCells, MixedNetwork
from search.space import SearchSpace
from search.spaces import cell


def blocks_of(space: SearchSpace) -> Blocks:
    """Pieces of a space.

    Raises:
        ConfigError: If none are known.
    """
    networks = space.networks if isinstance(space, cell.Space) else None
    if isinstance(networks, NasBench201Networks):
        return CellBlocks(space)
    if isinstance(networks, DartsNetworks):
        return DartsBlocks(space)
    raise ConfigError(
        "differentiable search knows the blocks of the space 'cell' only, with kind = 'nas_bench_201' or "
        f"'darts', got space {space.name!r}; use another strategy for this space"
    )


def mixed_network(blocks: Blocks, seed: int) -> MixedNetwork:
    """All networks at once; initial weights follow from the seed."""
    if isinstance(blocks, CellBlocks):
        return MixedCells(blocks, seed)
    if isinstance(blocks, DartsBlocks):
        return MixedDartsCells(blocks, seed)
    raise TypeError(f"no mixed network of {type(blocks).__name__}")
