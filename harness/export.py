"""A network with its weights as a checked file, and the proof that the file computes the same."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from harness import plugins
from harness.file_metadata import NONE, Metadata
from harness.folding import Weights
from harness.quantization import Calibration
from results.codec import digest
from results.errors import ConfigError, ExportError
from results.records import Artifact
from search.network import Network, weight_shapes

Logits = NDArray[np.float32]
Images = NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest difference from PyTorch's logits that is rounding, as a share of the largest logit.

Of 1,000 random networks in six runtimes the largest was 9e-5, the 99th percentile 1.5e-6 (``python -m
tests.export_fuzz``); a padding that is wrong by one pixel made at least 5e-4, and mostly above 0.06, in 60
networks of the chain space."""

HALF_TOLERANCE = 1e-2
"""The same for half floats: the largest was 1.5e-3, in 300 random networks and 20 of the chain space."""


LARGEST_BYTES = 2**31 - 1
"""Greatest size of a protobuf message and of a flatbuffer."""


class Exporter(Protocol):
    """What a file of ``harness/exporters`` has; its name is the file format's.

    Attributes:
        FILE_FORMAT: Name of the format, as in :class:`results.records.Artifact`.
        PRECISIONS: Precisions that it writes.
    """

    FILE_FORMAT: str
    PRECISIONS: tuple[str, ...]

    def write(
        self,
        network: Network,
        weights: Weights,
        *,
        precision: str = "fp32",
        calibration: Calibration | None = None,
        batch: int = 1,
        metadata: Metadata = NONE,
    ) -> bytes:
        """The file; equal arguments give equal bytes."""

    def check(self, data: bytes) -> None:
        """Raises ExportError unless the format's own checker or loader takes the file."""

    def run(self, data: bytes, images: Images) -> Logits:
        """Logits ``(n, classes)`` of images ``(n, c, h, w)`` by the real runtime, one thread, this host."""


@dataclass(frozen=True)
class Exported:
    """A file with its record."""

    artifact: Artifact
    data: bytes


@dataclass(frozen=True)
class Comparison:
    """How logits differ from a reference.

    Attributes:
        largest_difference: Largest absolute difference of a logit; infinite where either side is not
            finite or the shapes differ.
        argmax_agreement: Share of the images on which the largest logit is the same one.
        images: Number of images compared.
        largest_logit: Largest absolute logit of the reference.
    """

    largest_difference: float
    argmax_agreement: float
    images: int
    largest_logit: float

    @property
    def within_tolerance(self) -> bool:
        """Whether the difference is rounding of fp32: at most :data:`TOLERANCE` of the largest logit."""
        return self.largest_difference <= TOLERANCE * self.largest_logit


def rounding(precision: str, largest_logit: float) -> float:
    """Largest difference of a logit that is rounding in floating point of this precision."""
    return (HALF_TOLERANCE if precision == "fp16" else TOLERANCE) * largest_logit


def export(
    network: Network,
    weights: Weights,
    file_format: str,
    precision: str = "fp32",
    *,
    calibration: Calibration | None = None,
    batch: int = 1,
    metadata: Metadata = NONE,
) -> Exported:
    """Writes a network as a file and has the format's own checker look at it.

    Args:
        network: What to write.
        weights: Its weights.
        file_format: ``onnx``, ``tflite`` or the name of another exporter.
        precision: One that the exporter writes.
        calibration: Ranges of the tensors, for int8 and only for that.
        batch: Fixed number of images that the file takes at a time.
        metadata: What the file says of itself; not part of the artifact's ``graph``.

    Raises:
        ConfigError: For a format or precision that there is not, or int8 without ranges.
        ExportError: If the weights do not fit or are not finite, or the checker refuses the file.
    """
    exporter = _exporter(file_format)
    if precision not in exporter.PRECISIONS:
        known = ", ".join(exporter.PRECISIONS)
        raise ConfigError(f"no {precision!r} {file_format} file can be written; precisions: {known}")
    if (calibration is not None) != (precision == "int8"):
        raise ConfigError(f"int8 and nothing else needs calibrated ranges, got {calibration} for {precision}")
    if batch < 1:
        raise ConfigError(f"a file takes at least 1 image at a time, got batch = {batch}")
    _check_size(network)
    data = exporter.write(
        network, weights, precision=precision, calibration=calibration, batch=batch, metadata=metadata
    )
    exporter.check(data)
    variant = [calibration.symmetric, calibration.integer_io] if calibration is not None else []
    artifact = Artifact(
        sha256=hashlib.sha256(data).hexdigest(),
        graph=digest([network.fingerprint, file_format, precision, batch, *variant]),
        weights=_weights_hash(network, weights),
        file_format=file_format,
        precision=precision,
        size_bytes=len(data),
    )
    return Exported(artifact, data)


def run_on_host(exported: Exported, images: Images) -> Logits:
    """Logits ``(n, classes)`` of images ``(n, channels, height, width)`` by the runtime on this host.

    Raises:
        ConfigError: If n is no multiple of the file's batch.
        RuntimeRefused: If the runtime does not load or run the file.
    """
    exporter = _exporter(exported.artifact.file_format)
    return exporter.run(exported.data, np.ascontiguousarray(images, np.float32))


def agreement(reference: Logits, logits: Logits) -> Comparison:
    """Compares logits of the same images, both of shape ``(n, classes)``."""
    same = reference.shape == logits.shape
    if not (same and np.isfinite(reference).all() and np.isfinite(logits).all()):
        return Comparison(math.inf, 0.0, len(reference), 0.0)
    difference = np.abs(logits.astype(np.float64) - reference).max()
    ours, theirs = (values.reshape(len(values), -1).argmax(axis=1) for values in (logits, reference))
    largest = np.abs(reference).max()
    return Comparison(float(difference), float((ours == theirs).mean()), len(reference), float(largest))


def compare(
    exported: Exported, reference: Logits, images: Images, *, tolerance: float | None = None
) -> Comparison:
    """Runs a file on this host's real runtime and compares its logits with a reference.

    Args:
        exported: The file.
        reference: PyTorch's logits of the images in inference, shape ``(n, classes)``; of the simulated
            integers for int8 (:mod:`harness.proof`).
        images: Shape ``(n, channels, height, width)``; real ones, not noise.
        tolerance: Largest difference that is rounding; None for that of the precision in floating point.

    Raises:
        ExportError: If they differ by more than rounding or are not finite.
        RuntimeRefused: If the runtime does not load or run the file.
    """
    return compare_logits(exported, reference, run_on_host(exported, images), tolerance=tolerance)


def compare_logits(
    exported: Exported, reference: Logits, logits: Logits, *, tolerance: float | None = None
) -> Comparison:
    """Compares logits that a file gave with a reference; arguments and errors as in :func:`compare`."""
    artifact = exported.artifact
    for who, values in (("PyTorch", reference), (f"the {artifact.file_format} file", logits)):
        if not np.isfinite(values).all():
            raise ExportError(artifact.sha256, f"{who} computes logits that are not finite")
    if logits.shape != reference.shape:
        shapes = f"the file's logits have shape {logits.shape}, PyTorch's {reference.shape}"
        raise ExportError(artifact.sha256, shapes)
    found = agreement(reference, logits)
    allowed = rounding(artifact.precision, found.largest_logit) if tolerance is None else tolerance
    if found.largest_difference > allowed:
        raise ExportError(
            artifact.sha256,
            f"the {artifact.file_format} file is another network: its logits differ from PyTorch's by "
            f"{found.largest_difference:.3g}; rounding is at most {allowed:.3g}",
        )
    return found


def _check_size(network: Network) -> None:
    size_bytes = 4 * sum(math.prod(shape) for shape in weight_shapes(network).values())
    if size_bytes > LARGEST_BYTES:
        raise ExportError(
            network.fingerprint,
            f"the weights take {size_bytes} bytes in float32; a model file can have {LARGEST_BYTES}",
        )


@cache  # looking through the entry points of an environment takes longer than an export
def _exporter(file_format: str) -> Exporter:
    return cast(Exporter, plugins.load("exporters", file_format))


def _weights_hash(network: Network, weights: Weights) -> str:
    """Hash of the network's own tensors; others in the mapping do not count."""
    total = hashlib.sha256()
    for name in sorted(weight_shapes(network)):
        total.update(name.encode() + b"\0" + np.ascontiguousarray(weights[name], "<f4").tobytes())
    return total.hexdigest()
