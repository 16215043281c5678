"""The layer graph: the one description of a network from which everything else is made.

The PyTorch module, the ONNX and TFLite files, MACs, parameters and activation memory all come from
:class:`Network`, so they cannot disagree about what the network is.

Shapes are without the batch: ``(channels, height, width)`` for images, ``(features,)`` after a global
pool.  Weights are a mapping from PyTorch's state-dict names (``"<node>.weight"``, ``"<node>.bias"``,
``"<node>.running_mean"`` ...) to float32 arrays in PyTorch's layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from results.codec import digest, to_json
from results.errors import ArchitectureError

Shape = tuple[int, ...]
Activations = Literal["relu", "relu6", "hard_swish"]


@dataclass(frozen=True)
class Conv:
    """A 2-D convolution.

    Attributes:
        channels: Output channels.
        kernel: ``(height, width)``.
        stride: ``(vertical, horizontal)``.
        padding: ``(top, bottom, left, right)``, zeros.
        groups: Equal to the input channels for a depthwise convolution.
        dilation: ``(vertical, horizontal)``.
        bias: Whether it adds a bias; none where a batch norm follows.
    """

    channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)
    bias: bool = False


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation over the channels; folded into the convolution before it on export."""

    epsilon: float = 1e-5


@dataclass(frozen=True)
class Activation:
    """A nonlinearity, element by element."""

    kind: Activations = "relu"


@dataclass(frozen=True)
class Add:
    """Sum of two inputs of equal shape."""


@dataclass(frozen=True)
class GlobalPool:
    """Mean over height and width: ``(c, h, w)`` to ``(c,)``."""


@dataclass(frozen=True)
class Dense:
    """A fully connected layer with bias: ``(n,)`` to ``(units,)``."""

    units: int


Layer = Conv | BatchNorm | Activation | Add | GlobalPool | Dense
_RANKS: dict[type, int] = {Conv: 3, BatchNorm: 3, GlobalPool: 3, Dense: 1}  # of what a layer reads


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

    Raises:
        ArchitectureError: If a node reads what does not come before it, or shapes do not fit.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        if not names or len(set(names)) != len(names) or "input" in names:
            raise ArchitectureError("a network needs nodes with different names, none of them 'input'")
        unfit = [name for name in names if not name or "." in name]
        if unfit:  # a dot separates node and tensor in the names of weights
            raise ArchitectureError(f"node name {unfit[0]!r} is empty or contains a dot")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ArchitectureError(f"the input needs channels, height and width, got {self.input_shape}")
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
        rows = [[type(n.layer).__name__, to_json(n.layer), [number[i] for i in n.inputs]] for n in self.nodes]
        return digest([list(self.input_shape), rows])


def output_shape(layer: Layer, inputs: list[Shape]) -> Shape:
    """Shape that a layer makes of its inputs' shapes.

    Raises:
        ArchitectureError: If the layer cannot take them.
    """
    _check_inputs(layer, inputs)
    match layer:
        case Conv():
            return _conv_shape(layer, inputs[0])
        case GlobalPool():
            return inputs[0][:1]
        case Dense():
            if layer.units < 1:
                raise ArchitectureError(f"a dense layer needs units, got {layer.units}")
            return (layer.units,)
        case _:
            return inputs[0]


def _check_inputs(layer: Layer, inputs: list[Shape]) -> None:
    wanted = 2 if isinstance(layer, Add) else 1
    if len(inputs) != wanted:
        raise ArchitectureError(f"{type(layer).__name__} takes {wanted} inputs, got {len(inputs)}")
    if inputs[0] != inputs[-1]:
        raise ArchitectureError(f"cannot add {inputs[0]} and {inputs[1]}")
    rank = _RANKS.get(type(layer))
    if rank is not None and len(inputs[0]) != rank:
        raise ArchitectureError(f"needs an input of rank {rank}, got shape {inputs[0]}")


def _conv_shape(layer: Conv, shape: Shape) -> Shape:
    channels, height, width = shape
    if min(layer.groups, *layer.kernel, *layer.stride, *layer.dilation) < 1 or min(layer.padding) < 0:
        raise ArchitectureError(f"kernel, stride, dilation and groups start at 1, padding at 0: {layer}")
    if layer.channels < 1 or channels % layer.groups or layer.channels % layer.groups:
        raise ArchitectureError(f"{channels} to {layer.channels} channels do not divide into {layer.groups}")
    top, bottom, left, right = layer.padding
    out = []
    for axis, (size, pad) in enumerate(((height, top + bottom), (width, left + right))):
        reach = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
        out.append((size + pad - reach) // layer.stride[axis] + 1)
    if min(out) < 1:
        raise ArchitectureError(f"a {layer.kernel} kernel does not fit into {shape}")
    return (layer.channels, *out)


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
    output are alive together.  Batch norms and activations work in place where nothing else reads
    their input: runtimes fold the one and fuse or overwrite with the other.
    """
    last = last_readers(network)
    sizes = {name: prod(shape) for name, shape in network.shapes.items()}
    alive = sizes["input"]
    peak = alive
    for i, node in enumerate(network.nodes):
        dying = sum(sizes[name] for name in set(node.inputs) if last[name] == i)
        in_place = isinstance(node.layer, BatchNorm | Activation) and dying > 0
        alive += sizes[node.name]
        peak = max(peak, alive - dying if in_place else alive)
        alive -= dying + (0 if node.name in last else sizes[node.name])
    return peak


def weight_shapes(network: Network) -> dict[str, Shape]:
    """Shape of every tensor of the weights mapping by name, running statistics included."""
    shapes: dict[str, Shape] = {}
    for node in network.nodes:
        for tensor, shape in _tensors(node.layer, network.shapes[node.inputs[0]]).items():
            shapes[f"{node.name}.{tensor}"] = shape
    return shapes


def _tensors(layer: Layer, shape: Shape) -> dict[str, Shape]:
    match layer:
        case Conv(channels=channels, kernel=kernel, groups=groups, bias=bias):
            weight = {"weight": (channels, shape[0] // groups, *kernel)}
            return weight | ({"bias": (channels,)} if bias else {})
        case BatchNorm():
            return {name: shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
        case Dense(units=units):
            return {"weight": (units, shape[0]), "bias": (units,)}
        case _:
            return {}


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
