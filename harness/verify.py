"""The proof of a trial: its trained files against PyTorch on this host, and against the board."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.deployment import Kind, TrainedFiles, kind_of, kinds_of, worst
from harness.export import Exported
from harness.prove import compare_on_board
from harness.rig import Progressing, Rig, Weights
from results.codec import from_json, to_json
from results.records import Score, Target, Trial
from search.network import Network
from search.training import predict

CHECKED_IMAGES = 8
"""Real images on which a trained file is compared with PyTorch."""


class Prover:
    """Proves the files of trained trials; may be called from several threads.

    Args:
        rig: What the study has in use.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def prove(self, known: Progressing, network: Network, weights: Weights) -> None:
        """Compares the trained files with PyTorch on this host, and on the boards where asked for.

        Files that do not compute in float32 are scored, too, on this host and on the validation split.
        """
        run, targets = self.rig.run, self.rig.targets_of(known.trial)
        kinds = kinds_of(targets)
        stored = {kind: run.get("exported", f"{known.trial.number}/{kind.name}") for kind in kinds}
        bodies: dict[Kind, dict[str, Any]] = {kind: body for kind, body in stored.items() if body is not None}
        unchecked = targets if self.rig.study.check_outputs == "all" else ()
        if len(bodies) < len(kinds) or not all(is_checked(self.rig, known.trial, t) for t in unchecked):
            files = self.rig.trained_files(network, weights)
            with self.rig.host.busy():
                images = self.rig.task.splits().validation.take(CHECKED_IMAGES)
                logits = predict(network, weights, images)
                for kind in kinds:
                    if kind not in bodies:
                        bodies[kind] = self._export(known.trial, files, kind, images, logits)
            for target in unchecked:
                kind = kind_of(target)
                check_on_board(self.rig, known.trial, target, files.file(kind), bodies[kind]["tolerance"])
        known.accuracy |= self._scored(known.trial, bodies)

    def _scored(self, trial: Trial, bodies: Mapping[Kind, Any]) -> dict[str, Score]:
        """Scores of the precisions other than float32: the worst over the formats."""
        scores: dict[str, list[Score]] = {}
        for kind, body in bodies.items():
            if body["score"] is not None:
                scores.setdefault(kind.precision, []).append(from_json(Score, body["score"]))
        accuracy = {name: worst(each, self.rig.task.maximise) for name, each in scores.items()}
        if accuracy and self.rig.run.get("scored", str(trial.number)) is None:
            self.rig.run.append_later("scored", str(trial.number), {"accuracy": to_json(accuracy)})
        return accuracy

    def _export(
        self,
        trial: Trial,
        files: TrainedFiles,
        kind: Kind,
        images: NDArray[np.float32],
        logits: NDArray[np.float32],
    ) -> dict[str, Any]:
        """Proves one file, scores it where it does not compute in float32, and stores both."""
        proof = files.prove(kind, images, logits)
        body = {
            "artifact": to_json(files.file(kind).artifact),
            **to_json(proof.comparison),
            "tolerance": proof.tolerance,
            "score": None if kind.precision == "fp32" else to_json(files.score(kind, "validation")),
        }
        self.rig.run.append_later("exported", f"{trial.number}/{kind.name}", body)
        return body


def is_checked(rig: Rig, trial: Trial, target: Target) -> bool:
    """Whether the board's outputs of a trial need no (further) look; a replay computes nothing."""
    if rig.study.check_outputs == "none" or rig.boards[target.device].origin == "replayed":
        return True
    return rig.run.get("checked", f"{trial.number}/{target.name}") is not None


def check_on_board(rig: Rig, trial: Trial, target: Target, file: Exported, tolerance: float) -> None:
    """Compares a trained file's outputs on the board with this host's, unless that was done.

    Args:
        rig: What the study has in use.
        trial: Whose file it is.
        target: Where it runs.
        file: The file.
        tolerance: Largest difference between two machines that is rounding.

    Raises:
        WrongOutput: If they differ by more than rounding.
    """
    if not is_checked(rig, trial, target):
        images = rig.task.splits().validation.take(CHECKED_IMAGES)
        board, plan = rig.boards[target.device], rig.study.screen
        found = compare_on_board(board, target, file, plan, images, tolerance=tolerance)
        rig.run.append("checked", f"{trial.number}/{target.name}", to_json(found))
