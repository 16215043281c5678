"""The layer graph: the one description of a network from which everything else is made.

The PyTorch module, the ONNX and TFLite files, MACs, parameters and activation memory all come from
:class:`Network`, so they cannot disagree about what the network is.

Shapes are without the batch: ``(channels, height, width)`` for images, ``(features,)`` after a global
pool.  Weights are a mapping from PyTorch's state-dict names (``"<node>.weight"``, ``"<node>.bias"``,
``"<node>.running_mean"`` ...) to float32 arrays in PyTorch's layout.  Layers: :mod:`search.layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from functools import cached_property
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from results.codec import digest
from results.errors import ArchitectureError
from search.layers import (
    Activation,
    Activations,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Identity,
    Layer,
    MaxPool,
    Multiply,
    Resize,
    Shape,
    Softmax,
    Zero,
    described,
    output_shape,
    tensors,
)

__all__ = [
    "Activation",
    "Activations",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Concat",
    "Conv",
    "Costs",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalPool",
    "Identity",
    "Layer",
    "MaxPool",
    "Multiply",
    "Network",
    "Node",
    "Resize",
    "Shape",
    "Softmax",
    "Zero",
    "costs",
    "initial_weights",
    "last_readers",
    "node_macs",
    "output_shape",
    "peak_activations",
    "weight_shapes",
]


_IN_PLACE = (BatchNorm, Activation, Identity, Dropout, Flatten)


@dataclass(frozen=True)
class Node:
    """A layer with a name and the names of what it reads; ``"input"`` is the network's input."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """A directed acyclic graph of layers, in an order in which they can be computed.

    Attributes:
        input_shape: ``(channels, height, width)``.
        nodes: Layers; the last is the output (logits, no softmax).
        inferred: Not kept: what :attr:`shapes` is, where it was found out as the nodes were collected; a
            search builds a thousand networks per trial.

    Raises:
        ArchitectureError: If a node reads what does not come before it, or shapes do not fit.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    inferred: InitVar[Mapping[str, Shape] | None] = None

    def __post_init__(self, inferred: Mapping[str, Shape] | None) -> None:
        names = [node.name for node in self.nodes]
        if not names or len(set(names)) != len(names) or "input" in names:
            raise ArchitectureError("a network needs nodes with different names, none of them 'input'")
        unfit = [name for name in names if not name or "." in name]
        if unfit:  # a dot separates node and tensor in the names of weights
            raise ArchitectureError(f"node name {unfit[0]!r} is empty or contains a dot")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ArchitectureError(f"the input needs channels, height and width, got {self.input_shape}")
        if inferred is not None:
            self.__dict__["shapes"] = dict(inferred)  # where the cached property keeps its own
        _ = self.shapes

    @property
    def output(self) -> str:
        """Name of the last node."""
        return self.nodes[-1].name

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shape of the output of every node, and of ``"input"``."""
        shapes: dict[str, Shape] = {"input": self.input_shape}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in shapes]
            if missing:
                raise ArchitectureError(f"{node.name} reads {missing[0]!r}, which is not before it")
            try:
                shapes[node.name] = output_shape(node.layer, [shapes[name] for name in node.inputs])
            except ArchitectureError as error:
                raise ArchitectureError(f"{node.name}: {error}") from error
        return shapes

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the structure: equal for networks of equal layers, whatever their nodes are called."""
        number = {"input": 0} | {node.name: i for i, node in enumerate(self.nodes, start=1)}
        rows = [[*described(node.layer), [number[name] for name in node.inputs]] for node in self.nodes]
        return digest([list(self.input_shape), rows])


@dataclass(frozen=True)
class Costs:
    """What a network costs by its graph alone, for one input.

    Attributes:
        macs: Multiply-accumulates of convolutions and dense layers; taps on padding count, biases,
            batch norm, activations and additions do not.
        parameters: Learned numbers: weights, biases, scale and shift of batch norms.
        activation_bytes: Largest sum of the tensors alive at one time, float32 (:func:`peak_activations`).
    """

    macs: int
    parameters: int
    activation_bytes: int


def costs(network: Network) -> Costs:
    """MACs, parameters and activation memory of a network."""
    macs = sum(node_macs(network, node) for node in network.nodes)
    statistics = (".running_mean", ".running_var")  # gathered, not learned
    shapes = weight_shapes(network)
    parameters = sum(prod(shape) for name, shape in shapes.items() if not name.endswith(statistics))
    return Costs(macs, parameters, 4 * peak_activations(network))


def node_macs(network: Network, node: Node) -> int:
    """Multiply-accumulates of one node; 0 for layers other than convolutions and dense ones."""
    shape, out = network.shapes[node.inputs[0]], network.shapes[node.name]
    match node.layer:
        case Conv(kernel=kernel, groups=groups):
            return prod(out) * (shape[0] // groups) * prod(kernel)
        case Dense():
            return shape[0] * out[0]
        case _:
            return 0


def last_readers(network: Network) -> dict[str, int]:
    """Index of the last node that reads each tensor; the output is read after the last node."""
    last = {name: i for i, node in enumerate(network.nodes) for name in node.inputs}
    return last | {network.output: len(network.nodes)}


def peak_activations(network: Network) -> int:
    """Largest number of elements alive at one time, nodes computed in their order.

    A tensor lives from the node that makes it to the last node that reads it; a node's inputs and
    output are alive together.  Batch norms, activations, identities and flattening work in place where
    nothing else reads their input: runtimes fold, fuse or overwrite.
    """
    last = last_readers(network)
    sizes = {name: prod(shape) for name, shape in network.shapes.items()}
    alive = sizes["input"]
    peak = alive
    for i, node in enumerate(network.nodes):
        dying = sum(sizes[name] for name in set(node.inputs) if last[name] == i)
        in_place = isinstance(node.layer, _IN_PLACE) and dying > 0
        alive += sizes[node.name]
        peak = max(peak, alive - dying if in_place else alive)
        alive -= dying + (0 if node.name in last else sizes[node.name])
    return peak


def weight_shapes(network: Network) -> dict[str, Shape]:
    """Shape of every tensor of the weights mapping by name, running statistics included."""
    shapes: dict[str, Shape] = {}
    for node in network.nodes:
        for tensor, shape in tensors(node.layer, network.shapes[node.inputs[0]]).items():
            shapes[f"{node.name}.{tensor}"] = shape
    return shapes


def initial_weights(network: Network, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights to begin with: a function of network and seed alone.

    Convolutions are normal with variance 2 / fan-in, fan-in being (input channels / groups) x kernel
    taps (He et al. 2015, "Delving deep into rectifiers", eq. 10; PyTorch's ``kaiming_normal_``); the
    dense layer, which no ReLU follows, has variance 1 / fan-in.  Fan-in keeps the scale of activations
    where batch norms are still identities, as in a network measured before it is trained: fan-out
    would shrink them at every depthwise layer towards denormals, which slow CPUs down tenfold.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in weight_shapes(network).items():
        if len(shape) > 1:
            deviation = sqrt((2.0 if len(shape) == 4 else 1.0) / prod(shape[1:]))
            weights[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
        else:
            weights[name] = np.zeros(shape, np.float32)
    for node in network.nodes:
        if isinstance(node.layer, BatchNorm):
            weights[f"{node.name}.weight"] += 1
            weights[f"{node.name}.running_var"] += 1
    return weights
