"""The proof that a file is the network that it was written from.

A floating-point file must give PyTorch's logits but for rounding.  An int8 file computes something else
on purpose: it must give the logits of the simulated integers (:mod:`harness.simulation`), and how far
those are from PyTorch's is a figure, not a fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.export import Comparison, Exported, agreement, compare_logits, rounding, run_on_host
from harness.folding import Weights
from harness.quantization import Calibration
from harness.simulation import Simulation
from search.network import Network


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with what its files are held against.

    Attributes:
        network: The network.
        weights: Its weights.
        images: Real images ``(n, c, h, w)``.
        logits: PyTorch's logits of them.
    """

    network: Network
    weights: Weights
    images: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Proof:
    """That a file is the network that it was written from.

    Attributes:
        comparison: How its logits differ from PyTorch's in float32.
        tolerance: Largest difference between two machines that run it that is rounding.
        logits: What this host's runtime computes.
    """

    comparison: Comparison
    tolerance: float
    logits: NDArray[np.float32]


def prove(exported: Exported, trained: Trained, calibration: Calibration | None = None) -> Proof:
    """Runs a file on this host's real runtime and holds it against what it was written from.

    Args:
        exported: The file.
        trained: What it was written from.
        calibration: The ranges that an int8 file was written with.

    Raises:
        ExportError: If the file computes something else than it should.
        RuntimeRefused: If the runtime does not load or run it.
    """
    logits = run_on_host(exported, trained.images)
    if calibration is None:
        found = compare_logits(exported, trained.logits, logits)
        return Proof(found, rounding(exported.artifact.precision, found.largest_logit), logits)
    simulation = Simulation(trained.network, trained.weights, calibration, exported.artifact.file_format)
    expected = simulation.simulated(trained.images)
    compare_logits(exported, expected.logits, logits, tolerance=expected.tolerance)
    return Proof(agreement(trained.logits, logits), expected.tolerance, logits)
