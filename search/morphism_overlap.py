"""Weights of a network from another that it cannot be grown from: what fits is taken over.

Nodes are paired by name and type of layer; those left over by order, layer by layer, where they are equal.
Of a pair, the first channels are taken as far as both have them, and of kernels the taps around the centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from search.layers import described, tensors
from search.morphism_layers import is_depthwise
from search.network import Conv, Network, Node, initial_weights

Weights = Mapping[str, NDArray[np.float32]]

STATISTICS = ("running_mean", "running_var")


def overlap(
    parent: Network, weights: Weights, child: Network, *, seed: int
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """The child's weights, and how many of its learned numbers are the parent's; the others are fresh."""
    made = initial_weights(child, seed)
    copied = 0
    for new, old in _pairs(parent, child):
        for tensor in tensors(new.layer, child.shapes[new.inputs[0]]):
            target, source = made[f"{new.name}.{tensor}"], weights.get(f"{old.name}.{tensor}")
            if source is not None and source.ndim == target.ndim:
                to, taken = common(target.shape, source.shape)
                target[to] = source[taken]
                copied += 0 if tensor in STATISTICS else target[to].size
    return made, copied


def _pairs(parent: Network, child: Network) -> Iterator[tuple[Node, Node]]:
    """Nodes of the child with the nodes of the parent whose weights they take."""
    old = {node.name: node for node in parent.nodes if _has_weights(parent, node)}
    new = [node for node in child.nodes if _has_weights(child, node)]
    left = list[Node]()
    for node in new:
        if node.name in old and _kind(child, node) == _kind(parent, old[node.name]):
            yield node, old.pop(node.name)
        else:
            left.append(node)
    rest = list(old.values())
    wanted, there = [_look(child, node) for node in left], [_look(parent, node) for node in rest]
    for block in SequenceMatcher(None, wanted, there, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            yield left[block.a + i], rest[block.b + i]


def _has_weights(network: Network, node: Node) -> bool:
    return bool(tensors(node.layer, network.shapes[node.inputs[0]]))


def _kind(network: Network, node: Node) -> str:
    depthwise = isinstance(node.layer, Conv) and is_depthwise(network, node)
    return type(node.layer).__name__ + ("/depthwise" if depthwise else "")


def _look(network: Network, node: Node) -> str:
    return f"{_kind(network, node)} {described(node.layer)} {network.shapes[node.inputs[0]][0]}"


def common(target: tuple[int, ...], source: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part that two tensors have in common: first channels, middle taps."""
    into, out = list[slice](), list[slice]()
    for axis, (a, b) in enumerate(zip(target, source, strict=True)):
        size = min(a, b)
        middle = axis >= 2
        start_a, start_b = ((a - size) // 2, (b - size) // 2) if middle else (0, 0)
        into.append(slice(start_a, start_a + size))
        out.append(slice(start_b, start_b + size))
    return tuple(into), tuple(out)
