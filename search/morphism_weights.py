"""Weights of a network that was grown from another, from the part that each node has in it.

Every tensor of the grown network is described by which channel of the parent's tensor each of its channels
is, or that it is zero or *fresh*.  Fresh channels have random weights; nothing that the parent computed
reads them yet, so training finds a gradient for the weights between them at the first step.  Net2Net (Chen et
al. 2016, algorithm 1) copies channels instead, which need noise to become different; zeros where new
channels are read are those of Wei et al. 2016, section 3.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from results.errors import ArchitectureError
from search.layers import BatchNorm, Concat, Conv, Dense, Flatten, Multiply, tensors
from search.morphism_layers import centre, conv_of, is_depthwise, taps
from search.morphism_roles import Role
from search.network import Network, Node, initial_weights

Weights = Mapping[str, NDArray[np.float32]]
Channels = NDArray[np.int64]

FRESH, NOTHING = -1, -2
"""In place of a channel of the parent: one of random weights, and one of zeros."""

_LEAST_SCALE = 1e-3
"""Of a batch norm, below which what it reads is not changed: large numbers would cancel each other."""


@dataclass(frozen=True)
class Content:
    """What a tensor of the grown network is.

    Attributes:
        channels: Channel of the parent's tensor, :data:`FRESH` or :data:`NOTHING`, shape ``(c,)``.
        scale: Factor between the two.
    """

    channels: Channels
    scale: float = 1.0


class Grower:
    """Writes the weights of a grown network, node by node.

    Args:
        parent: What is grown.
        weights: Its weights.
        child: What it becomes.
        roles: The part of every node, of :func:`search.morphism_roles.roles`.
        seed: Of the fresh weights.

    Attributes:
        weights: Of the grown network, when :meth:`grow` has run.
        copied: How many of the grown network's learned numbers are the parent's.
        adjusted: Batch norms whose statistics are not those of what they read; the function is the same with
            any (:mod:`search.morphism_norms`).
    """

    def __init__(
        self, parent: Network, weights: Weights, child: Network, roles: Mapping[str, Role], *, seed: int
    ) -> None:
        self._parent = {node.name: node for node in parent.nodes}
        self._parent_network = parent
        self._old = weights
        self._child = child
        self._roles = roles
        self._contents = {"input": Content(np.arange(child.input_shape[0]))}
        self._readers: dict[str, str] = {n: node.name for node in child.nodes for n in node.inputs}
        self.weights = initial_weights(child, seed)
        self.copied = 0
        self.adjusted: list[str] = []

    def grow(self) -> None:
        """Writes all weights.

        Raises:
            ArchitectureError: If channels do not come together; it names the layer.
        """
        for node in self._child.nodes:
            role = self._roles.get(node.name)
            made = self._free(node) if role is None else self._node(node, role)
            self._contents[node.name] = made
            if role is not None and role.goal.kind == "same":
                self._check(node, made, self._channels_of(role.goal.tensor))

    def _free(self, node: Node) -> Content:
        return Content(np.full(self._child.shapes[node.name][0], FRESH))

    def _channels_of(self, tensor: str) -> int:
        return self._parent_network.shapes[tensor][0]

    def _check(self, node: Node, made: Content, wanted: int) -> None:
        if not np.isin(np.arange(wanted), made.channels).all():
            raise ArchitectureError(
                f"the network cannot be grown into the other: {node.name} joins channels that do not belong "
                "together"
            )

    def _node(self, node: Node, role: Role) -> Content:
        inputs = [self._contents[name] for name in node.inputs]
        match node.layer:
            case Conv():
                return self._conv(node, role, inputs[0])
            case BatchNorm():
                return self._norm(node, role, inputs[0])
            case Dense():
                return self._dense(node, role, inputs[0])
            case Concat():
                return self._concatenated(node, role)
            case Flatten():
                area = prod(self._child.shapes[node.inputs[0]][1:])
                spread = inputs[0].channels[:, None] * area + np.arange(area)
                spread[inputs[0].channels < 0] = inputs[0].channels[inputs[0].channels < 0, None]
                return replace(inputs[0], channels=spread.ravel())
            case Multiply() if role.how == "carry" and role.goal.kind == "same":
                return replace(inputs[0], scale=inputs[0].scale / 2)  # gated by a half
            case _ if len(inputs) == 2:
                return self._joined(role, inputs)
            case _:
                return inputs[0]

    def _concatenated(self, node: Node, role: Role) -> Content:
        """Channels of the inputs that stand for the parent's, where they are in the parent; others fresh."""
        matched = list(zip(role.inputs, self._parent[role.of].inputs, strict=True)) if role.of else []
        parts, offset = list[Channels](), 0
        for name in node.inputs:
            channels = self._contents[name].channels
            if matched and matched[0][0] == name:
                parts.append(np.where(channels >= 0, channels + offset, channels))
                offset += self._channels_of(matched.pop(0)[1])
            else:
                parts.append(np.where(channels >= 0, FRESH, channels))
        return Content(np.concatenate(parts))

    def _joined(self, role: Role, inputs: Sequence[Content]) -> Content:
        """A sum or a product."""
        a, b = (content.channels for content in inputs)
        if role.goal.kind == "zero":
            return Content(np.full(len(a), NOTHING))
        if role.how == "match":  # a product: zero where one of the two is
            joined = np.where(a == b, a, FRESH)
            return Content(np.where((a == NOTHING) | (b == NOTHING), NOTHING, joined))
        joined = np.where(b == NOTHING, a, np.where(a == NOTHING, b, np.where(a == b, a, FRESH)))
        return Content(joined)

    # ------------------------------------------------------------------ layers with weights

    def _conv(self, node: Node, role: Role, read: Content) -> Content:
        weight = self.weights[f"{node.name}.weight"]
        if role.how == "zero":
            return self._zeroed(node)
        if is_depthwise(self._child, node):
            self._depthwise(node, role, read, weight)
            made = replace(read, scale=1.0)
        else:
            made = self._dense_conv(node, role, read, weight)
        if role.goal.kind == "less":
            self._take_off(node, role, made, weight)
        return made

    def _zeroed(self, node: Node) -> Content:
        for tensor in tensors(node.layer, self._child.shapes[node.inputs[0]]):
            self.weights[f"{node.name}.{tensor}"][...] = tensor == "running_var"
        return Content(np.full(self._child.shapes[node.name][0], NOTHING))

    def _depthwise(self, node: Node, role: Role, read: Content, weight: NDArray[np.float32]) -> None:
        kept = np.flatnonzero(read.channels >= 0)
        weight[kept] = 0
        if role.how == "pass":
            row, column = _centre(node)
            weight[kept, 0, row, column] = 1 / read.scale
            return
        rows, columns = taps(conv_of(node), conv_of(self._parent[role.of]))
        old = self._of(role, "weight")[read.channels[kept]] / read.scale
        weight[np.ix_(kept, np.zeros(1, int), np.array(rows), np.array(columns))] = old
        self._copy(node, role, kept, read.channels[kept])

    def _dense_conv(self, node: Node, role: Role, read: Content, weight: NDArray[np.float32]) -> Content:
        wanted = self._channels_of(self._plain_goal(role))
        made = np.full(len(weight), FRESH)
        made[:wanted] = np.arange(wanted)
        weight[:wanted] = 0
        kept = np.flatnonzero(read.channels >= 0)
        if role.how == "pass":
            row, column = _centre(node)
            first = [int(np.flatnonzero(read.channels == i)[0]) for i in range(wanted)]
            weight[np.arange(wanted), first, row, column] = 1 / read.scale
            return Content(made)
        rows, columns = taps(conv_of(node), conv_of(self._parent[role.of]))
        old = self._of(role, "weight")[:, read.channels[kept]] * _shares(read)[:, None, None]
        weight[np.ix_(np.arange(wanted), kept, np.array(rows), np.array(columns))] = old
        self._copy(node, role, np.arange(wanted), np.arange(wanted))
        return Content(made)

    def _plain_goal(self, role: Role) -> str:
        return role.of or role.goal.tensor

    def _take_off(self, node: Node, role: Role, made: Content, weight: NDArray[np.float32]) -> None:
        """Subtracts what a convolution reads from what the batch norm after it makes (or from its own)."""
        reader = self._roles.get(self._readers[node.name])
        kept = np.flatnonzero(made.channels >= 0)
        factors = np.ones(len(kept), np.float32)
        if reader is not None and reader.goal.kind == "less" and self._is_norm(reader.of):
            epsilon = np.float32(_epsilon(self._parent[reader.of]))
            spread = np.sqrt(self._of(reader, "running_var") + epsilon)
            scales = self._of(reader, "weight") / spread
            if np.abs(scales).min() < _LEAST_SCALE:
                raise ArchitectureError(
                    f"{node.name} cannot make up for a skip connection: its batch norm scales by "
                    f"{np.abs(scales).min():.1g}, nearly nothing"
                )
            factors = (1 / scales)[made.channels[kept]]
        row, column = _centre(node)
        inputs = np.zeros(len(kept), np.int64) if is_depthwise(self._child, node) else kept
        weight[kept, inputs, row, column] -= factors

    def _is_norm(self, name: str) -> bool:
        return name in self._parent and isinstance(self._parent[name].layer, BatchNorm)

    def _norm(self, node: Node, role: Role, read: Content) -> Content:
        if role.how == "zero":
            return self._zeroed(node)
        kept = np.flatnonzero(read.channels >= 0)
        if role.how == "pass":
            self.weights[f"{node.name}.weight"][kept] = np.sqrt(1 + np.float32(_epsilon(node)))
            self.adjusted.append(node.name)
            return read
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            self.weights[f"{node.name}.{tensor}"][kept] = self._of(role, tensor)[read.channels[kept]]
        nothing = read.channels == NOTHING
        self.weights[f"{node.name}.weight"][nothing] = 0
        self.copied += 2 * len(kept)
        if role.goal.kind == "less":
            self.adjusted.append(node.name)
        return read

    def _dense(self, node: Node, role: Role, read: Content) -> Content:
        if role.how == "zero":
            return self._zeroed(node)
        weight = self.weights[f"{node.name}.weight"]
        kept = np.flatnonzero(read.channels >= 0)
        weight[:, read.channels < 0] = 0
        weight[:, kept] = self._of(role, "weight")[:, read.channels[kept]] * _shares(read)
        self._copy(node, role, np.arange(len(weight)), np.arange(len(weight)))
        return Content(np.arange(len(weight)))

    def _of(self, role: Role, tensor: str) -> NDArray[np.float32]:
        return self._old[f"{role.of}.{tensor}"]

    def _copy(self, node: Node, role: Role, rows: Channels, from_rows: Channels) -> None:
        """The bias, and the count of what came from the parent."""
        self.copied += min(self._of(role, "weight").size, self.weights[f"{node.name}.weight"].size)
        name = f"{node.name}.bias"
        if name in self.weights:
            self.weights[name][rows] = 0
            if f"{role.of}.bias" in self._old:
                self.weights[name][rows] = self._of(role, "bias")[from_rows]
                self.copied += len(rows)


def _shares(read: Content) -> NDArray[np.float32]:
    """What each channel that stands for one of the parent's contributes: all copies together, once."""
    kept = read.channels[read.channels >= 0]
    counts = np.bincount(kept, minlength=1)
    return np.asarray(1 / (counts[kept] * read.scale), np.float32)


def _centre(node: Node) -> tuple[int, int]:
    found = centre(conv_of(node))
    if found is None:
        raise ArchitectureError(f"{node.name} has no tap on the pixel that it computes")
    return found


def _epsilon(node: Node) -> float:
    return node.layer.epsilon if isinstance(node.layer, BatchNorm) else 0.0
