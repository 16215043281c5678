"""Weights of a network from those of another: grown so that it computes the same, or as far as they fit.

A network that is deeper or wider, has larger kernels, more branches or skip connections starts where the
other had got to, instead of at random: Chen, Goodfellow, Shlens 2016 (ICLR), "Net2Net: accelerating learning
via knowledge transfer"; Wei, Wang, Rui, Chen 2016 (ICML), "Network morphism".  What each layer can be made
to do: :mod:`search.morphism_roles`; the weights: :mod:`search.morphism_weights`; changes that no morphism
makes: :mod:`search.morphism_overlap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from results.errors import ArchitectureError
from search.morphism_overlap import overlap
from search.morphism_roles import roles
from search.morphism_weights import Grower
from search.network import Network, costs, weight_shapes

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Inherited:
    """Weights to begin a training with.

    Attributes:
        weights: By the names of the child's weights mapping, float32.
        preserved: Whether the child computes what the parent computes, to rounding.
        share_inherited: Share of the child's learned numbers that are the parent's, 0 to 1.
        kind: ``identical`` where the networks are equal, ``grown`` by a morphism, or ``overlap``.
        adjusted: Batch norms whose running statistics are to be set (:mod:`search.morphism_norms`).
        reason: Why it was not grown; empty where it was.
    """

    weights: Weights = field(repr=False)
    preserved: bool
    share_inherited: float
    kind: Literal["identical", "grown", "overlap"]
    adjusted: tuple[str, ...] = ()
    reason: str = ""


def map_weights(parent: Network, weights: Weights, child: Network, *, seed: int = 0) -> Inherited:
    """The weights that a network gets from a trained one, function-preserving where there is a way.

    Args:
        parent: The trained network.
        weights: Its weights.
        child: The network to train; of any structure.
        seed: Of whatever is new.

    Raises:
        ArchitectureError: If the weights are not the parent's.
    """
    check_weights(parent, weights)
    if child.fingerprint == parent.fingerprint:
        names = {new.name: old.name for new, old in zip(child.nodes, parent.nodes, strict=True)}
        same = {name: weights[_renamed(name, names)] for name in weight_shapes(child)}
        return Inherited(same, True, 1.0, "identical")
    try:
        return grow(parent, weights, child, seed=seed)
    except ArchitectureError as error:
        made, copied = overlap(parent, weights, child, seed=seed)
        share = copied / max(1, costs(child).parameters)
        return Inherited(made, False, share, "overlap", reason=str(error))


def grow(parent: Network, weights: Weights, child: Network, *, seed: int = 0) -> Inherited:
    """The weights with which a network computes what a smaller one computes.

    Args:
        parent: The smaller network.
        weights: Its weights, checked.
        child: The same network deeper, wider, with larger kernels, more branches or skip connections.
        seed: Of the weights of new channels, which nothing reads yet.

    Raises:
        ArchitectureError: If there is no way; it names the layer that a morphism cannot take.
    """
    grower = Grower(parent, weights, child, roles(parent, child), seed=seed)
    grower.grow()
    share = grower.copied / max(1, costs(child).parameters)
    return Inherited(grower.weights, True, share, "grown", tuple(grower.adjusted))


def check_weights(network: Network, weights: Weights) -> None:
    """Raises ArchitectureError unless the weights are of this network's names and shapes."""
    wanted = weight_shapes(network)
    odd = sorted(wanted.keys() ^ weights.keys())
    if odd:
        raise ArchitectureError(f"weights of another network: {len(odd)} names differ, {odd[0]!r} first")
    for name, shape in wanted.items():
        if weights[name].shape != shape:
            raise ArchitectureError(f"{name} has shape {weights[name].shape}, the network wants {shape}")


def _renamed(name: str, names: Mapping[str, str]) -> str:
    node, _, tensor = name.partition(".")
    return f"{names[node]}.{tensor}"
