"""How alike two layer graphs are, by paths, by Weisfeiler-Lehman labels, or by optimal transport.

Each is a vector whose city-block distance is the distance meant, so that all of them serve any space, and the
exponential kernel of them is one (positive definite):

- ``paths``: how often each sequence of up to :data:`LONGEST` operations lies on a way through the network,
  after the path encoding of BANANAS (White, Neiswanger, Savani 2021, section 3).  Deviation: pieces of ways
  are counted, as whole networks have too many ways; there, those of one cell are.
- ``weisfeiler_lehman``: labels after 0 to :data:`ROUNDS` rounds of refinement by what a layer reads
  (Shervashidze et al. 2011, algorithm 2), as NAS-BOWL compares cells (Ru et al. 2021, section 3).
- ``optimal_transport``: after NASBOT (Kandasamy et al. 2018, section 3): the mass of a layer is its share of
  the network's work; moving it costs the more, the less two layers have in common (label mismatch) and the
  farther apart they lie between input and output (structure).  Deviation: the costs are those of a tree
  (kind of layer, exact layer, eighths of the way), so that the best plan has a closed form
  (tree-Wasserstein distance: Le et al. 2019), where NASBOT solves a linear program for each pair.

Batch norms, activations and what else only passes its input on are left out.  What is counted is hashed into
:data:`COLUMNS` columns (Weinberger et al. 2009): two features share a column by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from results.records import Architecture
from search.joint import JointSpace
from search.network import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Identity,
    MaxPool,
    Network,
    Node,
    node_macs,
)
from search.space import SearchSpace

Floats = NDArray[np.float64]

LONGEST = 4
"""Operations of the longest sequence that is counted."""

ROUNDS = 2
"""Of refinement: a label knows what lies that many layers before it."""

COLUMNS = 256

KIND, LAYER, PLACE = 4.0, 2.0, 1.0
"""What moving all of a network's mass costs more where it goes to another kind of layer, to another layer,
and for each halving of the way that tells the two places apart; on the scale of edits."""

HALVINGS = 3
"""Of the way from input to output: eighths are told apart."""

LIGHT = 0.1
"""Mass of all layers without multiplications together, as a share of the others' (NASBOT, section 3)."""

_PASSED = (BatchNorm, Activation, Flatten, Identity, Dropout)


@dataclass(frozen=True)
class _Layer:
    """A layer that counts.

    Attributes:
        kind: What it is.
        label: What it is exactly, its channels aside.
        reads: Places of the layers before it; -1 for the input.
        mass: Its multiply-accumulates.
    """

    kind: str
    label: str
    reads: tuple[int, ...]
    mass: float


def paths(network: Network) -> Floats:
    """Counts of sequences of operations, shape ``(COLUMNS,)``."""
    layers = _layers(network)
    ending: list[Counter[tuple[str, ...]]] = []  # sequences by the layer that they end at
    for layer in layers:
        here: Counter[tuple[str, ...]] = Counter({(layer.label,): 1})
        for before in layer.reads:
            for way, count in (ending[before] if before >= 0 else {("input",): 1}).items():
                if len(way) < LONGEST:
                    here[(*way, layer.label)] += count
        ending.append(here)
    total: Counter[tuple[str, ...]] = Counter()
    for counted in ending:
        total.update(counted)
    return _hashed(total.items())


def weisfeiler_lehman(network: Network) -> Floats:
    """Counts of refined labels, shape ``(COLUMNS,)``."""
    layers = _layers(network)
    labels: list[Hashable] = [layer.label for layer in layers]
    total = Counter(labels)
    for _ in range(ROUNDS):
        labels = [
            (labels[i], tuple(sorted(repr(labels[j]) if j >= 0 else "input" for j in layer.reads)))
            for i, layer in enumerate(layers)
        ]
        total.update(labels)
    return _hashed(total.items())


def optimal_transport(network: Network) -> Floats:
    """Masses below each branch of the tree, times the cost of passing it, shape ``(COLUMNS,)``.

    The city-block distance of two such vectors is the least cost of making one network's mass the other's.
    """
    return _hashed(_transported(network))


def _transported(network: Network) -> Iterator[tuple[Hashable, float]]:
    layers = _layers(network)
    heavy = sum(layer.mass for layer in layers)
    light = [i for i, layer in enumerate(layers) if not layer.mass]
    share = LIGHT / max(1, len(light))
    whole = (1.0 if heavy else 0.0) + (LIGHT if light else 0.0)
    for layer, place in zip(layers, _places(layers), strict=True):
        mass = (layer.mass / heavy if layer.mass else share) / whole
        yield layer.kind, KIND / 2 * mass
        yield layer.label, LAYER / 2 * mass
        for halving in range(1, HALVINGS + 1):
            part = min(int(place * 2**halving), 2**halving - 1)
            yield (layer.label, halving, part), PLACE / 2 * mass


def _places(layers: list[_Layer]) -> list[float]:
    """Where layers lie on the longest ways from input (0) and to output (1)."""
    before, after = [0] * len(layers), [0] * len(layers)
    for i, layer in enumerate(layers):
        before[i] = max((before[j] + 1 for j in layer.reads if j >= 0), default=0)
    for i in range(len(layers) - 1, -1, -1):
        for j in layers[i].reads:
            if j >= 0:
                after[j] = max(after[j], after[i] + 1)
    return [b / max(1, b + a) for b, a in zip(before, after, strict=True)]


STRUCTURES: dict[str, Callable[[Network], Floats]] = {
    "paths": paths,
    "weisfeiler_lehman": weisfeiler_lehman,
    "optimal_transport": optimal_transport,
}


def structure_of(space: SearchSpace, name: str) -> Callable[[Architecture], Floats]:
    """One of :data:`STRUCTURES` for the architectures of a space.

    In a joint space the decisions beside the network are counted as edits.
    """
    measure = STRUCTURES[name]
    if not isinstance(space, JointSpace):
        return lambda architecture: measure(space.build(architecture))
    return lambda architecture: np.concatenate(
        [measure(space.build(architecture)), space.encode_rest(architecture)]
    )


def _layers(network: Network) -> list[_Layer]:
    """Layers that count, in their order."""
    place: dict[str, tuple[int, ...]] = {"input": (-1,)}
    layers: list[_Layer] = []
    for node in network.nodes:
        reads = tuple(sorted(p for name in node.inputs for p in place[name]))
        if isinstance(node.layer, _PASSED):
            place[node.name] = reads  # what reads it reads what it passes on
            continue
        place[node.name] = (len(layers),)
        layers.append(_Layer(*_named(network, node), reads, float(node_macs(network, node))))
    return layers


def _named(network: Network, node: Node) -> tuple[str, str]:
    """Kind and label of a layer."""
    layer = node.layer
    kind = type(layer).__name__
    if isinstance(layer, Conv):
        depthwise = 1 < layer.groups == network.shapes[node.inputs[0]][0]
        kind = "Depthwise" if depthwise else "Pointwise" if prod(layer.kernel) == 1 else "Conv"
        return kind, f"{kind} {layer.kernel} {layer.stride} {layer.dilation}"
    if isinstance(layer, MaxPool | AvgPool):
        return "Pool", f"{kind} {layer.kernel} {layer.stride}"
    return ("Dense" if isinstance(layer, Dense) else "Other"), kind


def _hashed(features: Iterable[tuple[Hashable, float]]) -> Floats:
    columns = np.zeros(COLUMNS)
    for feature, amount in features:
        columns[crc32(repr(feature).encode()) % COLUMNS] += amount
    return columns
