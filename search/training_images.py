"""Images of the training split as a network takes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from search.network import Network
from search.tasks import Task
from search.training_run import Inputs


def training_images(task: Task, network: Network, count: int) -> NDArray[np.float32]:
    """Inputs ``(count, c, h, w)`` spread evenly over the training split, not augmented."""
    split = task.data.train
    count = min(count, len(split.labels))
    rows = np.linspace(0, len(split.labels) - 1, count).round().astype(int)
    _, height, width = network.input_shape
    inputs = Inputs(split.pixels[rows], split.normalisation, (height, width))
    images: NDArray[np.float32] = inputs.batch(torch.arange(count)).numpy()
    return images
