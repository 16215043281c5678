"""The layer graph as the few operations that a file needs: what every exporter writes.

Batch norms are folded into the convolution before them wherever nothing else reads
what lies between (arithmetic in float64, one rounding to float32 at the end); where that is not so
they stay an operation of their own, ``x * weight + bias`` per channel.  An activation is attached to
the operation before it under the same rule; whether a format has one operation for both is the
writer's affair.  Layers that the output does not depend on are left out, and so are identities and
zeros wherever arithmetic allows (``x + 0``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import resizing
from results.errors import ExportError
from search.network import (
    Activation,
    Activations,
    Add,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Identity,
    Layer,
    MaxPool,
    Multiply,
    Network,
    Node,
    Resize,
    Shape,
    Zero,
    weight_shapes,
)

Weights = Mapping[str, NDArray[np.float32]]
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of a file.

    Attributes:
        name: Node whose output it makes: the last one folded into it.
        layer: What it computes; :class:`BatchNorm` stands for ``x * weight + bias`` per channel.
        inputs: Names of the operations it reads, or ``"input"``.
        shape: Shape of the output without the batch.
        weight: float32 in PyTorch's layout: ``(out, in / groups, height, width)`` of a convolution,
            ``(out, in)`` of a dense layer, ``(channels,)`` of a batch norm.
        bias: ``(channels,)``; present wherever there is a weight.
        activation: Applied to the result.
    """

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    shape: Shape
    weight: Array | None = None
    bias: Array | None = None
    activation: Activations | None = None

    @property
    def linear(self) -> str:
        """Name of what it computes before its activation."""
        return f"{self.name}.linear" if self.activation else self.name


FUSING = (Conv, Dense, BatchNorm, Add, Multiply, MaxPool, AvgPool)
"""Layers that runtimes compute together with a ReLU or ReLU6."""


def fuses(operation: Operation) -> bool:
    """Whether nothing lies between an operation and its activation, or it has none."""
    if operation.activation is None:
        return True
    return operation.activation in ("relu", "relu6") and isinstance(operation.layer, FUSING)


def as_half(name: str, values: Array) -> NDArray[np.float16]:
    """Values as half floats.

    Raises:
        ExportError: If one is beyond what these can hold, with the nearest precision that can.
    """
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        largest = np.abs(values).max()
        raise ExportError(name, f"{name!r} holds {largest:.3g}, beyond float16; use fp32 or int8")
    return half


_ZERO_AT_ZERO = ("relu", "relu6", "hard_swish", "silu")


def fold(network: Network, weights: Weights) -> tuple[Operation, ...]:
    """The operations that compute a network in inference, in an order in which they can be computed.

    Weights that are too small for a normal float32 become zero: they do not change a result that
    can be seen, and many CPUs compute with them ten times slower.

    Raises:
        ExportError: If weights are missing, have another shape, or are not finite once folded; the
            message names the node.  If runtimes would resize differently, or the network computes nothing.
    """
    _check_weights(network, weights)
    nodes = _live_nodes(network)
    if not nodes:
        raise ExportError(network.fingerprint, "the network hands its input through: there is nothing to run")
    readers = Counter(name for node in nodes for name in node.inputs)
    made: dict[str, Operation] = {}
    for node in nodes:
        _check_resizing(network, node)
        operation = _operation(network, node, weights)
        before = made.get(node.inputs[0])
        if before is not None and readers[before.name] == 1 and (joined := _join(before, operation)):
            del made[before.name]
            operation = joined
        made[node.name] = operation
    return tuple(_finish(network, operation) for operation in made.values())


def _check_resizing(network: Network, node: Node) -> None:
    shape = network.shapes[node.inputs[0]]
    if isinstance(node.layer, Resize) and not resizing.agrees(node.layer, shape):
        sizes = f"{shape[1:]} to {node.layer.size}"
        raise ExportError(
            network.fingerprint,
            f"{node.name!r} resizes {sizes} by nearest pixels, of which runtimes take different ones; "
            "use a whole factor or bilinear",
        )


def _check_weights(network: Network, weights: Weights) -> None:
    for name, shape in weight_shapes(network).items():
        if name not in weights:
            raise ExportError(network.fingerprint, f"the weights lack {name!r}")
        if weights[name].shape != shape:
            found = f"{name!r} has shape {weights[name].shape}, the network wants {shape}"
            raise ExportError(network.fingerprint, found)
        if not np.isfinite(weights[name]).all():
            raise ExportError(network.fingerprint, f"{name!r} holds numbers that are not finite")


def _live_nodes(network: Network) -> list[Node]:
    """The nodes that the output depends on, in their order; the last one computes the output."""
    nodes, output = _simplified(network)
    live = {output}
    for node in reversed(nodes):
        if node.name in live:
            live.update(node.inputs)
    return [node for node in nodes if node.name in live]


def _simplified(network: Network) -> tuple[list[Node], str]:
    """The nodes without identities and with as few zeros as arithmetic allows, and the output's name."""
    same = {"input": "input"}  # by node, the node left over that computes the same
    zeros: set[str] = set()
    nodes: list[Node] = []
    for node in network.nodes:
        inputs = tuple(same[name] for name in node.inputs)
        equal = _equal(node.layer, inputs, zeros)
        same[node.name] = equal or node.name
        if equal is None:
            is_zero = isinstance(node.layer, Zero) or (
                isinstance(node.layer, Multiply) and not zeros.isdisjoint(inputs)
            )
            if is_zero:
                zeros.add(node.name)
            nodes.append(Node(node.name, Zero(), inputs[:1]) if is_zero else replace(node, inputs=inputs))
    return nodes, same[network.output]


def _equal(layer: Layer, inputs: tuple[str, ...], zeros: set[str]) -> str | None:
    """Which of its inputs a layer hands through, if any."""
    match layer:
        case Identity() | Dropout():
            return inputs[0]
        case Zero() if inputs[0] in zeros:
            return inputs[0]
        case Add() if not zeros.isdisjoint(inputs):
            return inputs[1] if inputs[0] in zeros else inputs[0]
        case Activation(kind=kind) if inputs[0] in zeros and kind in _ZERO_AT_ZERO:
            return inputs[0]
        case _:
            return None


def _operation(network: Network, node: Node, weights: Weights) -> Operation:
    operation = Operation(node.name, node.layer, node.inputs, network.shapes[node.name])
    match node.layer:
        case Conv() | Dense():
            weight = weights[f"{node.name}.weight"].astype(np.float64)
            bias = weights.get(f"{node.name}.bias")
            if bias is None:
                bias = np.zeros(weight.shape[0], np.float32)
            return replace(operation, weight=weight, bias=bias.astype(np.float64))
        case BatchNorm(epsilon=epsilon):
            scale, offset, mean, variance = (
                weights[f"{node.name}.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            if (variance + epsilon <= 0).any():
                raise ExportError(network.fingerprint, f"{node.name!r} has a variance that is not positive")
            scale = scale / np.sqrt(variance + epsilon)
            return replace(operation, weight=scale, bias=offset - mean * scale)
        case _:
            return operation


def _join(before: Operation, after: Operation) -> Operation | None:
    """Both operations as one, or None where that would compute something else."""
    if before.activation is not None or isinstance(before.layer, Activation):
        return None
    if isinstance(after.layer, Activation):
        return replace(before, name=after.name, activation=after.layer.kind)
    if not isinstance(after.layer, BatchNorm) or before.weight is None or before.bias is None:
        return None
    scale, offset = np.asarray(after.weight), np.asarray(after.bias)
    weight = before.weight * scale.reshape(-1, *[1] * (before.weight.ndim - 1))
    return replace(before, name=after.name, weight=weight, bias=before.bias * scale + offset)


def _finish(network: Network, operation: Operation) -> Operation:
    if operation.weight is None or operation.bias is None:
        return operation
    rounded = []
    for part, values in (("weights", operation.weight), ("biases", operation.bias)):
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        if not np.isfinite(single).all():
            found = f"the {part} of {operation.name!r} overflow float32 with the batch norm folded in"
            raise ExportError(network.fingerprint, found)
        single[np.abs(single) < np.finfo(np.float32).tiny] = 0
        rounded.append(single)
    return replace(operation, weight=rounded[0], bias=rounded[1])
