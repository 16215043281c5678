"""Where and how a candidate runs, and how it is trained, as decisions beside those of its network.

:class:`JointSpace` wraps any space and adds two kinds of decisions: which of a device's targets (runtime,
threads, precision) a trial runs on, and the numbers of its training.  They are decisions like all others, so
that every strategy samples, mutates, crosses and models them without knowing what they are.

A trial is measured on the chosen targets alone.  Two trials that differ in the target only are one network,
trained once (:mod:`harness.trainings`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from results.errors import ConfigError
from results.records import Architecture, Option, Target
from search.network import Network
from search.space import Decision, SearchSpace

DEPLOYMENT, TRAINING = "deployment", "training"
"""First part of the names of the decisions, such as ``deployment.pi5`` and ``training.learning_rate``."""


class JointSpace(SearchSpace):
    """A space with decisions on deployment and training beside its own.

    Args:
        inner: Decides the network.
        deployments: Targets of which each trial takes one, by device.
        training: Values of which each trial takes one, by setting of the training
            (:data:`search.recipe.RECIPE`).

    Raises:
        ConfigError: If a device has one target only, a setting has no value or one twice, or the inner
            space has a decision of such a name.
    """

    def __init__(
        self,
        inner: SearchSpace,
        *,
        deployments: Mapping[str, Sequence[Target]],
        training: Mapping[str, Sequence[Option]],
    ) -> None:
        self.inner = inner
        self._targets = {device: tuple(targets) for device, targets in deployments.items()}
        for device, targets in self._targets.items():
            if len(targets) < 2:
                raise ConfigError(f"[space.deployment.{device}] needs two targets of {device} to choose from")
        decisions = [
            *(Decision(f"{DEPLOYMENT}.{d}", tuple(map(label, ts))) for d, ts in self._targets.items()),
            *(Decision(f"{TRAINING}.{n}", tuple(v), ordered=_is_scale(v)) for n, v in training.items()),
        ]
        super().__init__(inner.name, (*inner.decisions, *decisions), {"network": inner.fingerprint})
        self._attributes = {device: _attributes(targets) for device, targets in self._targets.items()}

    # ------------------------------------------------------------------ what was chosen

    def network_part(self, architecture: Architecture) -> Architecture:
        """The point of the inner space."""
        return Architecture(self.inner.fingerprint, self._split(architecture.choices)[0])

    def deployment(self, architecture: Architecture) -> dict[str, Target]:
        """The target taken on every device that has a choice."""
        tail = self._split(architecture.choices)[1]
        return {d: ts[i] for (d, ts), i in zip(self._targets.items(), tail, strict=False)}

    def recipe(self, architecture: Architecture) -> dict[str, Option]:
        """The values taken of the settings of the training."""
        mark = f"{TRAINING}."
        options = self.describe(architecture)
        return {name.removeprefix(mark): o for name, o in options.items() if name.startswith(mark)}

    def _split(self, choices: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        own = len(self.inner.decisions)
        return choices[:own], choices[own:]

    # ------------------------------------------------------------------ a space

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """The layer graph, which the inner space alone decides; see the base class."""
        self.check(architecture)
        return self.inner.build(self.network_part(architecture), width=width, resolution=resolution)

    def canonical(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """As the inner space has it; every other decision stands for itself."""
        own, tail = self._split(choices)
        return (*self.inner.canonical(own), *tail)

    def equivalents(self, choices: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        """Encodings of the same network, run and trained in the same way."""
        own, tail = self._split(choices)
        return tuple((*other, *tail) for other in self.inner.equivalents(own))

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """The inner space's, then those with another target or setting; see the base class."""
        own, tail = self._split(architecture.choices)
        for near in self.inner.neighbours(self.network_part(architecture)):
            yield Architecture(self.fingerprint, (*near.choices, *tail))
        for i, decision in enumerate(self.decisions[len(own) :]):
            for option in range(len(decision.options)):
                if option != tail[i]:
                    yield Architecture(self.fingerprint, (*own, *tail[:i], option, *tail[i + 1 :]))

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """Features of the network, what the chosen targets have in common, and the encoded decisions.

        What two deployments share (the runtime, the precision, the logarithm of the threads) lets a model
        learn from one about the other, which names alone would not.
        """
        tail = self._split(architecture.choices)[1]
        shared = [self._attributes[d][i] for d, i in zip(self._targets, tail, strict=False)]
        network = self.network_part(architecture)
        return np.concatenate([self.inner.features(network), *shared, self.encode_rest(architecture)])

    def structure(self, architecture: Architecture) -> NDArray[np.float64]:
        """That of the network, and the encoded decisions beside it; see the base class."""
        network = self.inner.structure(self.network_part(architecture))
        return np.concatenate([network, self.encode_rest(architecture)])

    def encode_rest(self, architecture: Architecture) -> NDArray[np.float64]:
        """The encoded decisions on deployment and training, shape ``(k,)``."""
        return self.encode(architecture)[len(self.inner.encode(self.network_part(architecture))) :]


def targets_of(
    space: SearchSpace, architecture: Architecture, targets: Sequence[Target]
) -> tuple[Target, ...]:
    """Those of the targets that an architecture is measured on, in their order."""
    if not isinstance(space, JointSpace):
        return tuple(targets)
    taken = space.deployment(architecture)
    return tuple(target for target in targets if taken.get(target.device, target) == target)


def recipe_of(space: SearchSpace, architecture: Architecture) -> dict[str, Option]:
    """Settings of the training that an architecture decides; none in a space of networks alone."""
    return space.recipe(architecture) if isinstance(space, JointSpace) else {}


def label(target: Target) -> str:
    """A target's name without its device, such as ``tflite-int8-threads4``."""
    return target.name.removeprefix(f"{target.device}-")


def _is_scale(values: Sequence[Option]) -> bool:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return len(numbers) == len(values) and numbers == sorted(numbers)


def _attributes(targets: Sequence[Target]) -> NDArray[np.float64]:
    """What tells targets of a device apart, piece by piece, shape ``(targets, k)``.

    One column per runtime, precision and value of an option that some but not all of them have, and the
    binary logarithm of the threads.
    """
    rows: list[set[tuple[str, str]]] = [
        {("runtime", t.runtime), ("precision", t.precision), *((k, str(v)) for k, v in t.options)}
        for t in targets
    ]
    kinds = sorted(rows[0].union(*rows) - rows[0].intersection(*rows))
    shared = [[float(kind in row) for kind in kinds] for row in rows]
    threads = [[math.log2(float(dict(t.options).get("threads", 1)))] for t in targets]
    return np.hstack([np.array(shared).reshape(len(targets), -1), np.array(threads)])
