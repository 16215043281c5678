"""Proof that a board computes what this host computes: the outputs of one file on real images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from devices.board_agent import BoardAgent
from harness.board import Board
from harness.export import Comparison, Exported, agreement, run_on_host
from harness.measure import Job, ship
from results.errors import WrongOutput
from results.records import Plan, Score, Target
from search.tasks import Split, Task
from search.training import scored

Images = NDArray[np.float32]


def compare_on_board(
    board: Board, target: Target, file: Exported, plan: Plan, images: Images, *, tolerance: float
) -> Comparison:
    """Runs a file on a board and here, on the same images.

    Args:
        board: The board of the target.
        target: How it is run there.
        file: The file.
        plan: Sets how long it may take.
        images: Shape ``(n, channels, height, width)``.
        tolerance: Largest difference that is rounding.

    Raises:
        WrongOutput: If the outputs differ by more than rounding.
        CandidateError: If the file does not run there.
        BoardError: If the board stays away.
    """
    found = agreement(run_on_host(file, images), logits_on_board(board, target, file, plan, images))
    if found.largest_difference > tolerance:
        raise WrongOutput(
            file.artifact.sha256,
            f"{target.name} computes other numbers than this host: outputs differ by up to "
            f"{found.largest_difference:.3g} on {found.images} images",
        )
    return found


def logits_on_board(
    board: Board, target: Target, file: Exported, plan: Plan, images: Images
) -> NDArray[np.float32]:
    """What a board computes for images ``(n, channels, height, width)``; errors as above."""
    job = Job(file.artifact, file.data, target, plan)
    layout = images if target.file_format == "onnx" else images.transpose(0, 2, 3, 1)

    def work(agent: BoardAgent) -> NDArray[np.float32]:
        ship(agent, [job])
        inputs = [np.ascontiguousarray(layout, np.float32)]
        logits: NDArray[np.float32] = agent.outputs(file.artifact, target, inputs, plan.load_limit_s)[0]
        return logits

    return board.use(work, file.artifact.sha256)


def score_on_board(
    board: Board, target: Target, file: Exported, plan: Plan, task: Task, *, count: int
) -> Score:
    """The task's metric of what a board computes for some images of the validation split.

    Args:
        board: The board of the target.
        target: How it is run there.
        file: A trained file.
        plan: Sets how long it may take.
        task: Whose images and metric; independent examples, evenly spread.
        count: How many images.

    Raises:
        TrainingError: If the metric is undefined on them.
        CandidateError, BoardError: As :func:`compare_on_board`.
    """
    split = task.splits().validation
    rows = np.linspace(0, split.examples - 1, min(count, split.examples)).round().astype(int)
    sample = Split(split.pixels[rows], split.labels[rows], split.normalisation)
    outputs = logits_on_board(board, target, file, plan, sample.images)
    return scored(task, outputs, sample, file.artifact.sha256)
