"""What growing a network may ask of single layers."""

from __future__ import annotations

from results.errors import ArchitectureError
from search.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GlobalPool, Layer, MaxPool, Resize, Zero
from search.network import Activation, Add, AvgPool, Concat, Identity, Multiply, Network, Node, Softmax

_KEEP_ZERO = (Add, AvgPool, Concat, Dropout, Flatten, GlobalPool, Identity, MaxPool, Resize)
_KEEP_ZERO_ACTIVATIONS = ("relu", "relu6", "hard_swish", "silu")
_GATES = ("sigmoid", "hard_sigmoid")
_KEEP_RANGE = (AvgPool, Dropout, Flatten, GlobalPool, Identity, MaxPool, Resize)
_BELOW_6 = ("relu6", *_GATES)


def makes_zero(layer: Layer) -> bool:
    """Whether a layer can be made to give zeros whatever it reads."""
    return isinstance(layer, Conv | BatchNorm | Dense | Zero)


def keeps_zero(layer: Layer) -> bool:
    """Whether a layer makes zeros of zeros."""
    if isinstance(layer, Activation):
        return layer.kind in _KEEP_ZERO_ACTIVATIONS
    return isinstance(layer, _KEEP_ZERO)


def is_gate(layer: Layer) -> bool:
    """Whether a layer makes a half of zero."""
    return isinstance(layer, Activation) and layer.kind in _GATES


def fits(child: Network, node: Node, parent: Network, other: Node) -> bool:
    """Whether a layer of the child can do what a layer of the parent does, of the same type."""
    match node.layer, other.layer:
        case Conv(), Conv():
            return _conv_fits(child, node, parent, other)
        case _:
            return node.layer == other.layer and len(node.inputs) == len(other.inputs)


def _conv_fits(child: Network, node: Node, parent: Network, other: Node) -> bool:
    new, old = conv_of(node), conv_of(other)
    if new.stride != old.stride or (old.bias and not new.bias) or _taps_or_none(new, old) is None:
        return False
    both = ((child, node), (parent, other))
    if all(conv_of(n).groups == 1 and not is_depthwise(net, n) for net, n in both):
        return True
    return all(is_depthwise(net, n) for net, n in both)


def conv_of(node: Node) -> Conv:
    """The convolution of a node.

    Raises:
        ArchitectureError: If it is another layer.
    """
    if not isinstance(node.layer, Conv):
        raise ArchitectureError(f"{node.name} is no convolution but {node.layer}")
    return node.layer


def is_depthwise(network: Network, node: Node) -> bool:
    """Whether a convolution has a kernel of its own for every channel."""
    channels = network.shapes[node.inputs[0]][0]
    return conv_of(node).groups == channels == conv_of(node).channels and channels > 1


def taps(new: Conv, old: Conv) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of the new kernel at which the old kernel's taps see the same pixels.

    Raises:
        ArchitectureError: If the new kernel does not reach all of them.
    """
    found = _taps_or_none(new, old)
    if found is None:
        raise ArchitectureError(f"a kernel of {old} does not fit into one of {new}")
    return found


def _taps_or_none(new: Conv, old: Conv) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    axes: list[tuple[int, ...]] = []
    for axis in (0, 1):
        before_new, before_old = new.padding[2 * axis], old.padding[2 * axis]
        places = [i * old.dilation[axis] - before_old + before_new for i in range(old.kernel[axis])]
        if any(place % new.dilation[axis] for place in places):
            return None
        indices = tuple(place // new.dilation[axis] for place in places)
        if min(indices) < 0 or max(indices) >= new.kernel[axis]:
            return None
        axes.append(indices)
    return axes[0], axes[1]


def centre(layer: Conv) -> tuple[int, int] | None:
    """Row and column of the tap that sees the very pixel that is computed; None without one."""
    if layer.stride != (1, 1):
        return None
    pixel = Conv(layer.channels, (1, 1), padding=(0, 0, 0, 0))
    found = _taps_or_none(layer, pixel)
    return None if found is None else (found[0][0], found[1][0])


def takes_off(child: Network, node: Node) -> bool:
    """Whether a convolution can be made to subtract what it reads from what it makes."""
    layer = conv_of(node)
    same = child.shapes[node.name] == child.shapes[node.inputs[0]]
    return same and centre(layer) is not None and (layer.groups == 1 or is_depthwise(child, node))


def passes(child: Network, node: Node, parent: Network, tensor: str) -> bool:
    """Whether a layer of the child can hand on what it reads, should that be a tensor of the parent."""
    match node.layer:
        case Conv(groups=groups):
            kept = child.shapes[node.name][1:] == child.shapes[node.inputs[0]][1:]
            plain = groups == 1 or is_depthwise(child, node)
            return kept and plain and centre(conv_of(node)) is not None
        case BatchNorm() | Identity() | Dropout():
            return True
        case Activation(kind=kind):
            return kind in ("relu", "relu6") and _within(parent, tensor, below_6=kind == "relu6")
        case _:
            return False


def _within(parent: Network, tensor: str, *, below_6: bool) -> bool:
    """Whether a tensor has no negative values (and none above 6)."""
    nodes = {node.name: node for node in parent.nodes}
    stack = [tensor]
    while stack:
        node = nodes.get(stack.pop())
        match None if node is None else node.layer:
            case Activation(kind=kind) if kind in _BELOW_6 or (kind == "relu" and not below_6):
                continue
            case Softmax() | Zero():
                continue
            case Concat() | Add() | Multiply() as layer if not below_6 or isinstance(layer, Concat):
                pass
            case layer if isinstance(layer, _KEEP_RANGE):
                pass
            case _:
                return False
        stack += [] if node is None else node.inputs
    return True
