"""The layer graph of a user's own ``torch.nn.Module``, traced and proved.

What is traced (:mod:`torch.fx`) are the module's operations in the order of its ``forward``; each must be one
of :mod:`search.layers`.  The graph is then given the module's own weights and must compute the same outputs,
so that a difference in meaning (a padding, a ceiling, a dimension) is found here and not on a board.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from results.errors import ArchitectureError
from search.module import load_weights, to_module, weights_of
from search.network import (
    Activation,
    Activations,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Identity,
    Layer,
    MaxPool,
    Multiply,
    Network,
    Node,
    Resize,
    Shape,
    Softmax,
)

TOLERANCE = 1e-4
"""Largest difference of an output that is rounding, as a share of the largest output."""

Padding = tuple[int, int, int, int]

_ACTIVATIONS: dict[Any, Activations] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hard_swish",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.hardswish: "hard_swish",
    F.hardsigmoid: "hard_sigmoid",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    F.silu: "silu",
    "relu": "relu",
    "sigmoid": "sigmoid",
}
_PAIRS: dict[Any, Layer] = {
    operator.add: Add(),
    operator.iadd: Add(),
    torch.add: Add(),
    "add": Add(),
    operator.mul: Multiply(),
    torch.mul: Multiply(),
    "mul": Multiply(),
}


def network_of(module: nn.Module, input_shape: Shape) -> Network:
    """The layer graph of a module.

    Args:
        module: Takes images ``(n, c, h, w)`` and gives ``(n, classes)``.
        input_shape: ``(c, h, w)``.

    Raises:
        ArchitectureError: If an operation is none of the known layers, a layer is used twice, or the graph
            computes something else than the module; the message names the operation.
    """
    module = module.eval()
    try:
        traced = fx.symbolic_trace(module)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        message = "what forward() does must not depend on the values in it"
        raise ArchitectureError(f"{type(module).__name__} cannot be traced: {error} ({message})") from error
    tracing = _Tracing(module)
    for step in traced.graph.nodes:
        tracing.take(step)
    network = Network(input_shape, tuple(tracing.nodes))
    _prove(module, network, tracing.sources)
    return network


class _Tracing:
    """The nodes so far, and which of the module's layers each came from."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = dict(module.named_modules())
        self._names: dict[fx.Node, str] = {}
        self.nodes: list[Node] = []
        self.sources: dict[str, str] = {}

    def take(self, step: fx.Node) -> None:
        """Adds what one step of the trace does."""
        if step.op == "placeholder":
            if self._names:
                raise ArchitectureError(f"forward() takes more than the images: {step.name}")
            self._names[step] = "input"
        elif step.op == "output":
            self._finish(step)
        else:
            layer, inputs = self._layer(step)
            name = step.name
            self.nodes.append(Node(name, layer, tuple(self._name(each, step) for each in inputs)))
            self._names[step] = name

    def _finish(self, step: fx.Node) -> None:
        last = step.args[0]
        if not isinstance(last, fx.Node) or not self.nodes or self._name(last, step) != self.nodes[-1].name:
            raise ArchitectureError("forward() is to return the output of its last layer, a single tensor")

    def _name(self, value: Any, step: fx.Node) -> str:
        if not isinstance(value, fx.Node) or value not in self._names:
            raise ArchitectureError(f"{step.name}: {value!r} is no tensor that a layer before it made")
        return self._names[value]

    def _layer(self, step: fx.Node) -> tuple[Layer, list[Any]]:
        if step.op == "call_module":
            return self._module_layer(step), [step.args[0]]
        given = [*step.args, *step.kwargs.values()]
        if step.op not in ("call_function", "call_method"):
            raise ArchitectureError(f"{step.name}: a tensor of the module's own is no layer")
        if step.target in _ACTIVATIONS:
            return Activation(_ACTIVATIONS[step.target]), given[:1]
        if step.target in _PAIRS:
            return _PAIRS[step.target], given[:2]
        layer, inputs = _function_layer(step)
        return layer, inputs

    def _module_layer(self, step: fx.Node) -> Layer:
        path = str(step.target)
        layer = _of_module(self._layers[path])
        if layer is None:
            raise _unknown(path, type(self._layers[path]).__name__)
        if isinstance(layer, Conv | BatchNorm | Dense):
            if path in self.sources.values():
                raise ArchitectureError(f"{path} is used twice: layers that share weights are no graph's")
            self.sources[step.name] = path
        return layer


def _of_module(module: nn.Module) -> Layer | None:
    """The layer of one of PyTorch's modules; None for one that there is not."""
    if type(module) in _ACTIVATIONS:
        return Activation(_ACTIVATIONS[type(module)])
    found = _LAYERS.get(type(module))
    return None if found is None else found(module)


def _conv(module: nn.Conv2d) -> Conv | None:
    if module.padding_mode != "zeros":
        return None
    return Conv(
        module.out_channels,
        _pair(module.kernel_size),
        _pair(module.stride),
        _conv_padding(module),
        module.groups,
        _pair(module.dilation),
        module.bias is not None,
    )


def _conv_padding(module: nn.Conv2d) -> Padding:
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(_pair(module.dilation), _pair(module.kernel_size), strict=True)]
        top, left = (each // 2 for each in total)
        return (top, total[0] - top, left, total[1] - left)
    vertical, horizontal = _pair(module.padding)
    return (vertical, vertical, horizontal, horizontal)


def _norm(module: nn.BatchNorm2d) -> BatchNorm | None:
    return BatchNorm(module.eps) if module.affine and module.track_running_stats else None


def _max_pool(module: nn.MaxPool2d) -> MaxPool | None:
    if module.ceil_mode or module.return_indices or _pair(module.dilation) != (1, 1):
        return None
    return MaxPool(_pair(module.kernel_size), _pair(module.stride), _around(module.padding))


def _avg_pool(module: nn.AvgPool2d) -> AvgPool | None:
    if module.ceil_mode or module.divisor_override:
        return None
    padding = _around(module.padding)
    return AvgPool(_pair(module.kernel_size), _pair(module.stride), padding, module.count_include_pad)


def _resize(module: nn.Upsample) -> Resize | None:
    if module.size is None or module.align_corners or module.mode not in ("nearest", "bilinear"):
        return None
    return Resize(_pair(module.size), "bilinear" if module.mode == "bilinear" else "nearest")


_LAYERS: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.Upsample: _resize,
    nn.AdaptiveAvgPool2d: lambda m: GlobalPool(True) if _pair(m.output_size) == (1, 1) else None,
    nn.Flatten: lambda m: Flatten() if (m.start_dim, m.end_dim) == (1, -1) else None,
    nn.Linear: lambda m: Dense(m.out_features) if m.bias is not None else None,
    nn.Softmax: lambda m: Softmax() if m.dim in (1, -1) else None,
    nn.Identity: lambda m: Identity(),
}


def _function_layer(step: fx.Node) -> tuple[Layer, list[Any]]:
    """What a function or a method with arguments of its own does."""
    arguments: list[Any] = list(step.args)
    named = dict(step.kwargs)
    read = _FUNCTIONS.get(step.target)
    layer = None if read is None else read(arguments, named)
    if layer is None:
        raise _unknown(step.name, str(getattr(step.target, "__name__", step.target)))
    if isinstance(layer, Concat):
        tensors: Any = arguments[0] if arguments else named["tensors"]
        return layer, list(tensors)
    return layer, arguments[:1]


def _read_concat(arguments: list[Any], named: dict[str, Any]) -> Layer | None:
    return Concat() if _argument(arguments, named, 1, "dim", 0) in (1, -3) else None


def _read_flatten(arguments: list[Any], named: dict[str, Any]) -> Layer | None:
    whole = _argument(arguments, named, 2, "end_dim", -1) in (-1, 3)
    return Flatten() if whole and _argument(arguments, named, 1, "start_dim", 0) == 1 else None


def _read_mean(arguments: list[Any], named: dict[str, Any]) -> Layer | None:
    dimensions = _argument(arguments, named, 1, "dim", None)
    if not isinstance(dimensions, tuple | list) or sorted(d % 4 for d in dimensions) != [2, 3]:
        return None
    return GlobalPool(bool(_argument(arguments, named, 2, "keepdim", False)))


def _read_adaptive(arguments: list[Any], named: dict[str, Any]) -> Layer | None:
    size = _argument(arguments, named, 1, "output_size", None)
    return GlobalPool(True) if size in (1, (1, 1), [1, 1]) else None


_FUNCTIONS: dict[Any, Callable[[list[Any], dict[str, Any]], Layer | None]] = {
    torch.cat: _read_concat,
    torch.concat: _read_concat,
    torch.flatten: _read_flatten,
    "flatten": _read_flatten,
    torch.mean: _read_mean,
    "mean": _read_mean,
    F.adaptive_avg_pool2d: _read_adaptive,
}


def _argument(arguments: list[Any], named: dict[str, Any], place: int, name: str, default: Any) -> Any:
    return arguments[place] if len(arguments) > place else named.get(name, default)


def _unknown(where: str, what: str) -> ArchitectureError:
    return ArchitectureError(
        f"{where}: {what} with these settings is none of the layers that can be searched; docs/formats.md "
        "has them all. 'boardwise bench' measures any module"
    )


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value), int(value))


def _around(padding: Any) -> Padding:
    vertical, horizontal = _pair(padding)
    return (vertical, vertical, horizontal, horizontal)


def _prove(module: nn.Module, network: Network, sources: dict[str, str]) -> None:
    """Raises ArchitectureError unless the graph with the module's weights computes what the module does."""
    state = module.state_dict()
    rebuilt = to_module(network)
    weights = {}
    for name in weights_of(rebuilt):
        node, _, tensor = name.rpartition(".")
        weights[name] = state[f"{sources[node]}.{tensor}"].detach().numpy()
    load_weights(rebuilt, weights)
    images = torch.randn((2, *network.input_shape), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = module(images)
        found = rebuilt.eval()(images)
    if not isinstance(expected, Tensor) or expected.shape != found.shape:
        raise ArchitectureError("the graph gives outputs of another shape than the module")
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max()) + 1e-6:
        raise ArchitectureError(
            f"the graph computes something else than the module, by up to {difference:.3g}"
        )
