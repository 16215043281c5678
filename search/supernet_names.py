"""Which weights the networks of a space share, and how large the shared ones are.

A weight is shared by the nodes of one name and one kind in all networks: depthwise, pointwise and other
convolutions are kinds of their own, convolutions that read what their own block pools too (other operations
under one name), and a dense layer has one set of weights for each stage that it reads.  A narrower node takes
the first channels, a smaller kernel the middle taps, a shorter stage the first blocks (Cai et al. 2020,
"Once-for-all", section 3.3; without its learned transformation between kernels).  So parallel choices have
their own weights, as in single-path supernets (Guo et al. 2020), wherever a space gives them names or kinds
of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from results.records import Architecture
from search.layers import Shape, tensors
from search.morphism_layers import is_depthwise
from search.network import BatchNorm, Conv, Dense, Network, Node, costs
from search.space import SearchSpace

SAMPLES = 200
"""Random networks that are looked at, besides one for every option, for the sizes of what is shared."""

STATISTICS = ("running_mean", "running_var")


def shared_names(network: Network) -> dict[str, str]:
    """Name of the shared tensor behind each learned tensor of a network, by the tensor's name."""
    nodes = {node.name: node for node in network.nodes}
    names: dict[str, str] = {}
    for node in network.nodes:
        kind = _kind(network, nodes, node)
        for tensor in tensors(node.layer, network.shapes[node.inputs[0]]):
            if tensor not in STATISTICS:
                names[f"{node.name}.{tensor}"] = f"{node.name}@{kind}.{tensor}"
    return names


def _kind(network: Network, nodes: dict[str, Node], node: Node) -> str:
    source = nodes.get(node.inputs[0])
    match node.layer:
        case Conv():
            return _conv_kind(network, node, source)
        case BatchNorm():
            of_conv = source is not None and isinstance(source.layer, Conv)
            return f"norm_{_kind(network, nodes, source)}" if source is not None and of_conv else "norm"
        case Dense():
            return f"dense_{_stage(network, nodes, node)}"
        case _:
            return "none"


def _conv_kind(network: Network, node: Node, source: Node | None) -> str:
    layer = node.layer
    kind = "conv"
    if isinstance(layer, Conv) and is_depthwise(network, node):
        kind = "depthwise"
    elif isinstance(layer, Conv) and layer.kernel == (1, 1):
        kind = "pointwise"
    own = source is not None and source.name.startswith(f"{node.name}_")
    if source is None or not own:
        return kind
    return f"{kind}_{type(source.layer).__name__}"


def _stage(network: Network, nodes: dict[str, Node], node: Node) -> str:
    """First word of the name of the last node with channels of its own before a dense layer."""
    while node.inputs[0] in nodes and len(network.shapes[node.inputs[0]]) < 3:
        node = nodes[node.inputs[0]]
    return node.inputs[0].partition("_")[0]


def shared_shapes(space: SearchSpace, seed: int) -> dict[str, Shape]:
    """Shape of every shared tensor: the largest over :func:`looked_at`."""
    shapes: dict[str, Shape] = {}
    for architecture in looked_at(space, seed):
        network = space.build(architecture)
        own = {
            f"{node.name}.{tensor}": shape
            for node in network.nodes
            for tensor, shape in tensors(node.layer, network.shapes[node.inputs[0]]).items()
        }
        for name, shared in shared_names(network).items():
            known = shapes.get(shared, own[name])
            shapes[shared] = tuple(map(max, known, own[name]))
    return dict(sorted(shapes.items()))


def looked_at(space: SearchSpace, seed: int) -> Iterator[Architecture]:
    """For every option a large network that has it, and random networks."""
    rng = np.random.default_rng((seed, 7))
    for i, decision in enumerate(space.decisions):
        for option in range(len(decision.options)):
            yield extreme(space, rng, largest=True, fixed={i: option})
    for _ in range(SAMPLES):
        yield space.sample(rng)


def extreme(
    space: SearchSpace,
    rng: np.random.Generator,
    *,
    largest: bool,
    fixed: dict[int, int] | None = None,
    upwards: Sequence[bool] | None = None,
) -> Architecture:
    """A network with the last (or first) option of every ordered decision, the others by chance.

    Args:
        space: Where from.
        rng: Draws the decisions without an order.
        largest: Last or first options.
        fixed: Options of some decisions by number; decisions that these depend on are chosen to suit.
        upwards: Decisions whose last option counts as the largest; None for all of them.
    """
    choices = []
    for i, decision in enumerate(space.decisions):
        last = len(decision.options) - 1
        drawn = int(rng.integers(last + 1))
        up = largest == (upwards is None or upwards[i])
        choices.append((last if up else 0) if decision.ordered else drawn)
    for i, option in (fixed or {}).items():
        _fix(space, choices, i, option)
    return space.architecture(choices)


def upwards(space: SearchSpace) -> list[bool]:
    """Of every decision, whether networks have more multiply-accumulates with its last option than its first.

    Of decisions without an order it says nothing.  A larger stride, say, makes a smaller network.
    """
    found = []
    for i, decision in enumerate(space.decisions):
        macs = [
            costs(space.build(extreme(space, np.random.default_rng(i), largest=True, fixed={i: option}))).macs
            for option in (0, len(decision.options) - 1)
            if decision.ordered
        ]
        found.append(not macs or macs[1] >= macs[0])
    return found


def _fix(space: SearchSpace, choices: list[int], index: int, option: int) -> None:
    places = {decision.name: i for i, decision in enumerate(space.decisions)}
    choices[index] = option
    for parent, allowed in space.decisions[index].only_if:
        number = places[parent]
        if space.decisions[number].options[choices[number]] not in allowed:
            _fix(space, choices, number, space.decisions[number].options.index(allowed[-1]))
