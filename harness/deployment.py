"""The files that a study needs of a candidate: one per format and precision, before and after training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from devices.agent_replies import BoardFacts
from harness.calibration import calibrate, plausible
from harness.export import Exported, export, run_on_host
from harness.file_metadata import NONE, Metadata
from harness.folding import Weights
from harness.proof import Proof, Trained, prove
from harness.quantization import Calibration, CalibrationPlan
from results.errors import OutOfMemory
from results.records import UNTRAINED, Artifact, Limit, Metric, Score, Target
from search.network import Network, costs, weight_shapes
from search.tasks import SplitName, Task
from search.training import scored


class Kind(NamedTuple):
    """Format and precision of a file."""

    file_format: str
    precision: str

    @property
    def name(self) -> str:
        """Name in records, such as ``onnx-int8``."""
        return f"{self.file_format}-{self.precision}"

    @property
    def size_key(self) -> str:
        """Name of the file's size among the costs of a network."""
        tail = "" if self.precision == "fp32" else f"_{self.precision}"
        return f"size_bytes_{self.file_format}{tail}"


def kind_of(target: Target) -> Kind:
    """The kind of file that runs on a target."""
    return Kind(target.file_format, target.precision)


def kinds_of(targets: Iterable[Target]) -> tuple[Kind, ...]:
    """The kinds of files that run on targets, each once, sorted."""
    return tuple(sorted({kind_of(target) for target in targets}))


def graph_costs(network: Network, targets: Iterable[Target], limits: Iterable[Limit]) -> dict[str, float]:
    """What the layer graph alone tells, so that nothing is drawn of a network that breaks a limit anyway.

    Returns:
        ``macs``, ``parameters`` and ``activation_bytes``; the size of a file only where its weights alone are
        beyond a limit on it, and then theirs.
    """
    found = {name: float(number) for name, number in asdict(costs(network)).items()}
    upper = min((x.upper for x in limits if x.metric == Metric("size")), default=math.inf)
    # Kernels and matrices alone: batch norms may leave nothing behind.
    elements = sum(math.prod(shape) for shape in weight_shapes(network).values() if len(shape) > 1)
    for kind in kinds_of(targets):
        least_bytes = elements * {"int8": 1, "fp16": 2}.get(kind.precision, 4)
        if least_bytes > upper:
            found[kind.size_key] = float(least_bytes)
    return found


def keeps_limits(network: Network, targets: Iterable[Target], limits: Iterable[Limit]) -> bool:
    """Whether no limit of the study is certainly broken by the layer graph alone."""
    limits = list(limits)
    found = graph_costs(network, targets, limits)
    sizes = any(name.startswith("size_bytes") for name in found)
    return not sizes and all(found.get(x.metric.name, 0.0) <= x.upper for x in limits)


def untrained_file(network: Network, weights: Weights, kind: Kind, metadata: Metadata = NONE) -> Exported:
    """A file with initial weights, as good as the trained one to measure latency with; its record says so.

    Raises:
        ExportError: If the format cannot express the network.
    """
    calibration = plausible(network, weights) if kind.precision == "int8" else None
    file = export(network, weights, *kind, calibration=calibration, metadata=metadata)
    return replace(file, artifact=replace(file.artifact, weights=UNTRAINED))


def require_room(artifact: Artifact, facts: BoardFacts, activation_bytes: float = 0.0) -> None:
    """Refuses a file that a board's memory cannot hold, before it is sent there.

    What it needs at the least are the file itself and the activations that are alive at once; the runtime,
    the system and copies come on top, so that a file which passes may still be killed for its memory.

    Args:
        artifact: The file.
        facts: The board's; one that does not tell its memory takes every file.
        activation_bytes: Greatest size of the activations in float32, where it is known.

    Raises:
        OutOfMemory: If the board has less memory in all.
    """
    share = 0.25 if artifact.precision == "int8" else 1.0
    needed_bytes = artifact.size_bytes + share * activation_bytes
    if facts.memory_bytes and needed_bytes > facts.memory_bytes:
        raise OutOfMemory(
            artifact.sha256,
            f"needs {needed_bytes / 1e6:.0f} MB at the least, and the board has "
            f"{facts.memory_bytes / 1e6:.0f} MB of memory in all: it was not sent there",
        )


class TrainedFiles:
    """The files of one trained network.

    Args:
        network: The network.
        weights: Its trained weights.
        task: What it learnt; its training images are what int8 is calibrated on.
        plan: How.
        metadata: What the files say of themselves.
    """

    def __init__(
        self,
        network: Network,
        weights: Weights,
        task: Task,
        plan: CalibrationPlan,
        metadata: Metadata = NONE,
    ) -> None:
        self._network = network
        self._weights = weights
        self._task = task
        self._plan = plan
        self._metadata = metadata
        self.file = cache(self._file)

    @cached_property
    def _ranges(self) -> Calibration:
        images = self._task.splits().train.take(self._plan.images)
        return calibrate(self._network, self._weights, images, self._plan.method)

    def _calibration(self, kind: Kind) -> Calibration | None:
        return self._ranges if kind.precision == "int8" else None

    def _file(self, kind: Kind) -> Exported:
        """The file of a kind.

        Raises:
            ExportError: If the format or precision cannot express the network.
        """
        calibration = self._calibration(kind)
        return export(self._network, self._weights, *kind, calibration=calibration, metadata=self._metadata)

    def prove(self, kind: Kind, images: NDArray[np.float32], logits: NDArray[np.float32]) -> Proof:
        """Proves a file on images with PyTorch's logits of them; errors as :func:`harness.proof.prove`."""
        trained = Trained(self._network, self._weights, images, logits)
        return prove(self.file(kind), trained, self._calibration(kind))

    def score(self, kind: Kind, split: SplitName) -> Score:
        """The task's metric of what this host's real runtime computes with a file.

        Raises:
            TrainingError: If outputs or score are not finite, or code of the task raises.
        """
        data, file = self._task.data[split], self.file(kind)
        return scored(self._task, run_on_host(file, data.images), data, file.artifact.sha256)


def worst(scores: Iterable[Score], maximise: bool) -> Score:
    """The worst of the scores of several formats: what a precision is known by."""
    return (min if maximise else max)(scores, key=lambda score: score.value)
