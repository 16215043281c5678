"""Small networks and task files for the tests of training."""

from __future__ import annotations

import textwrap
from pathlib import Path

from search.network import Activation, BatchNorm, Conv, Dense, GlobalPool, Network, Node, Shape

_DATA = """
import numpy as np

def data():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = rng.integers(0, 200, (120, 1, 8, 8)) + 50 * y[:, None, None, None]
    return {"x_train": x.astype(np.uint8), "y_train": y}
"""


def small_network(shape: Shape = (1, 8, 8), outputs: int = 10, *, depth: int = 3, width: int = 16) -> Network:
    """Plain 3x3 convolutions, every other of stride 2."""
    nodes = []
    last = "input"
    for i in range(depth):
        stride = (2, 2) if i % 2 else (1, 1)
        layers = {
            f"c{i}": Conv(width * (1 + (i > 0)), stride=stride),
            f"n{i}": BatchNorm(),
            f"a{i}": Activation(),
        }
        for name, layer in layers.items():
            nodes.append(Node(name, layer, (last,)))
            last = name
    nodes += [Node("pool", GlobalPool(), (last,)), Node("head", Dense(outputs), ("pool",))]
    return Network(shape, tuple(nodes))


def task_file(folder: Path, code: str = "", *, data: str = _DATA) -> str:
    """Writes a task of two classes of 8x8 images with the code given; returns its path."""
    path = folder / "task.py"
    path.write_text(data + textwrap.dedent(code))
    return str(path)
