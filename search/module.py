"""The PyTorch module of a layer graph.  The only file that knows both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from results.errors import ArchitectureError
from search.layers import Padding
from search.network import (
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
    Network,
    Resize,
    Shape,
    Softmax,
    Zero,
    initial_weights,
    last_readers,
)

Weights = Mapping[str, NDArray[np.float32]]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
}
_DROPPING: dict[str, Callable[[Tensor, float, bool], Tensor]] = {
    "elements": F.dropout,
    "channels": F.dropout2d,
    "alpha elements": F.alpha_dropout,
    "alpha channels": F.feature_alpha_dropout,
}


class NetworkModule(nn.Module):
    """A network that PyTorch can train; the names of its state are those of the weights mapping.

    Args:
        network: What to compute.

    Raises:
        ArchitectureError: If a node has a name that PyTorch keeps for itself (``"forward"``).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for node in network.nodes:
            layer = _layer_module(node.layer, network.shapes[node.inputs[0]])
            if layer is not None:
                try:
                    self.add_module(node.name, layer)
                except KeyError as error:
                    raise ArchitectureError(f"a node cannot be called {node.name!r}: {error}") from error
        last = last_readers(network)
        # What nothing reads after step i; never the output, whose last reader comes after all steps.
        self._dead = [
            [name for name in {*node.inputs, node.name} if last.get(name, i) == i]
            for i, node in enumerate(network.nodes)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, channels, height, width)``."""
        values = {"input": images}
        for node, dead in zip(self.network.nodes, self._dead, strict=True):
            values[node.name] = self._compute(node.name, node.layer, [values[name] for name in node.inputs])
            for name in dead:
                del values[name]
        return values[self.network.output]

    def _compute(self, name: str, layer: Layer, inputs: list[Tensor]) -> Tensor:
        match layer:
            case Conv(padding=padding):
                return self._convolve(name, padding, inputs[0])
            case Dropout(rate=rate, of=of):
                return _DROPPING[of](inputs[0], rate, self.training)
            case BatchNorm() | Dense():
                result: Tensor = self._modules[name](inputs[0])  # type: ignore[misc]
                return result
            case _:
                return compute(layer, inputs)

    def _convolve(self, name: str, padding: tuple[int, int, int, int], x: Tensor) -> Tensor:
        top, bottom, left, right = padding
        if top != bottom or left != right:
            x = _padded(x, padding, 0.0)
        result: Tensor = self._modules[name](x)  # type: ignore[misc]
        return result


def compute(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """What a layer without weights makes of its inputs, batch first.

    Raises:
        ArchitectureError: For a layer with weights.
    """
    x = inputs[0]
    match layer:
        case Activation(kind=kind):
            return activate(kind, x)
        case Add():
            return x + inputs[1]
        case Multiply():
            return x * inputs[1]
        case Concat():
            return torch.cat(tuple(inputs), 1)
        case Zero():
            return torch.zeros_like(x)
        case Identity():
            return x
        case _:
            return _reshape(layer, x)


def activate(kind: Activations, x: Tensor) -> Tensor:
    """An activation, element by element."""
    return _ACTIVATIONS[kind](x)


def _reshape(layer: Layer, x: Tensor) -> Tensor:
    match layer:
        case Flatten():
            return x.flatten(1)
        case Softmax():
            return x.softmax(1)
        case GlobalPool(keep_dims=keep):
            return x.mean((2, 3), keepdim=keep)
        case MaxPool():
            return F.max_pool2d(_padded(x, layer.padding, -torch.inf), layer.kernel, layer.stride)
        case AvgPool():
            return _average(layer, x)
        case Resize(size=size, mode=mode):
            return F.interpolate(x, size, mode=mode)  # pixel centres at half integers where bilinear
        case _:
            raise ArchitectureError(f"{layer} needs weights")


def _average(layer: AvgPool, x: Tensor) -> Tensor:
    means = F.avg_pool2d(_padded(x, layer.padding, 0.0), layer.kernel, layer.stride)
    if layer.count_padding or not any(layer.padding):
        return means
    ones = _padded(torch.ones_like(x[:1, :1]), layer.padding, 0.0)
    return means / F.avg_pool2d(ones, layer.kernel, layer.stride)  # by the share of the window inside


def _padded(x: Tensor, padding: Padding, value: float) -> Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


class _Conv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Draws nothing: weights are given, and drawing costs time and moves the global generator."""


class _BatchNorm2d(nn.BatchNorm2d):
    def reset_parameters(self) -> None:
        """As above."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """As above."""


def _layer_module(layer: Layer, shape: Shape) -> nn.Module | None:
    """The module of a layer; None for one without weights."""
    match layer:
        case Conv():
            top, bottom, left, right = layer.padding
            return _Conv2d(
                shape[0],
                layer.channels,
                layer.kernel,
                stride=layer.stride,
                padding=(top, left) if (top, left) == (bottom, right) else 0,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias,
            )
        case BatchNorm():
            norm = _BatchNorm2d(shape[0], eps=layer.epsilon, momentum=layer.momentum)
            # A count that only a cumulative average would read; without it the state is the mapping.
            norm.num_batches_tracked = None
            return norm
        case Dense():
            return _Linear(shape[0], layer.units, bias=layer.bias)
        case _:
            return None


def to_module(network: Network, weights: Weights | None = None) -> nn.Module:
    """The network as a module ``(n, c, h, w) -> (n, classes)``, in training mode.

    Args:
        network: What to compute.
        weights: What to compute it with; None for the initial weights of seed 0.

    Raises:
        ArchitectureError: If the weights are not those of this network.
    """
    module = NetworkModule(network)
    load_weights(module, initial_weights(network, 0) if weights is None else weights)
    return module


def load_weights(module: nn.Module, weights: Weights) -> None:
    """Copies weights into a module.

    Raises:
        ArchitectureError: If names or shapes differ from the module's; nothing is copied then.
    """
    state = module.state_dict()
    if state.keys() != weights.keys():
        odd = sorted(state.keys() ^ weights.keys())
        raise ArchitectureError(f"weights of another network: {len(odd)} names differ, {odd[0]!r} first")
    for name, tensor in state.items():
        if tuple(tensor.shape) != weights[name].shape:
            raise ArchitectureError(
                f"{name} has shape {weights[name].shape}, the network wants {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(weights[name], np.float32)))


def weights_of(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A copy of the weights of a module, running statistics included, in PyTorch's layout."""
    return {
        name: np.array(tensor.detach().cpu().numpy(), np.float32, order="C")
        for name, tensor in module.state_dict().items()
    }
