"""The inputs of a model file, and dimensions that it leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import ConfigError, unknown_name

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Input:
    """An input of a model file.

    Attributes:
        name: Name in the file.
        dtype: NumPy's name of its type, such as ``float32``.
        shape: Sizes with the batch, all fixed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader found in a file.

    Attributes:
        data: The file with all shapes fixed and all weights inside.
        inputs: What it takes, in order.
        precision: ``fp32``, ``fp16`` or ``int8``, as far as the file tells.
        graph: Hash of the structure without the weights; empty where they cannot be told apart.
        weights: Hash of the weights; empty likewise.
    """

    data: bytes
    inputs: tuple[Input, ...]
    precision: str
    graph: str = ""
    weights: str = ""


def fixed_shape(path: Path, name: str, sizes: tuple[int | str, ...], shapes: Shapes) -> tuple[int, ...]:
    """Shape of an input with its open dimensions filled in.

    Args:
        path: The file, for messages.
        name: The input.
        sizes: Its dimensions; a text (the dimension's name, or ``"?"``) is an open one.
        shapes: What the user says.

    Raises:
        ConfigError: If a dimension stays open, or the user contradicts one that is fixed.
    """
    wanted = shapes.get(name)
    said = ", ".join(map(str, sizes))
    if wanted is None:
        fixed = tuple(size for size in sizes if isinstance(size, int))
        if len(fixed) == len(sizes):
            return fixed
        guess = ",".join(str(s if isinstance(s, int) else 1 if i == 0 else 224) for i, s in enumerate(sizes))
        raise ConfigError(
            f"{path}: input {name!r} has the shape ({said}), which is not fixed; "
            f"say what to measure, such as --shape {name}={guess}"
        )
    agrees = all(isinstance(have, str) or have == want for have, want in zip(sizes, wanted, strict=False))
    if len(wanted) != len(sizes) or not agrees:
        raise ConfigError(f"{path}: input {name!r} has the shape ({said}), --shape says {wanted}")
    return wanted


def refuse_unknown(path: Path, names: Iterable[str], shapes: Shapes) -> None:
    """Raises ConfigError if the user gives a shape to an input that the file does not have."""
    known = list(names)
    for name in shapes:
        if name not in known:
            raise ConfigError(f"{path}: {unknown_name('input', name, known)}")


def refuse_nan(path: Path, name: str, values: NDArray[Any]) -> None:
    """Raises ConfigError if weights are not numbers; infinite ones are allowed, since masks have them."""
    if np.isnan(values).any():
        raise ConfigError(f"{path}: the weights {name!r} hold NaN, so every output is NaN; mend the training")
