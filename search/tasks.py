"""What a network is to learn: three splits of images with their targets, a loss and a metric.

The search sees the validation split, the report shows the test split, training sees neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from results.errors import DataError
from results.records import Score
from search import bootstrap
from search.network import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search.training_run import TrainingRun

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


class Loss(Protocol):
    """What training makes small."""

    def __call__(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """A scalar, of outputs ``(batch, outputs)`` and the targets of the same rows."""


class Measure(Protocol):
    """The value of the task's metric on a whole split."""

    def __call__(self, outputs: NDArray[np.float32], targets: NDArray[Any], /) -> float:
        """A finite number, of outputs ``(n, outputs)`` and the targets of the same rows."""


class Trainer(Protocol):
    """Trains a module in place, instead of Boardwise's own recipe."""

    def __call__(self, module: nn.Module, run: TrainingRun, /) -> None:
        """Trains; takes batches from ``run`` and tells it the end of every epoch."""


class TaskFile(Protocol):
    """What the Python file of a task must define; everything else in it is optional.

    Optional functions: ``loss`` (:class:`Loss`), ``metric`` (:class:`Measure`) and ``train``
    (:class:`Trainer`).  Optional constants: ``OUTPUTS``, ``CLASSES``, ``METRIC``, ``MAXIMISE``,
    ``WHOLE_SPLIT`` and ``CREDITS``.  See docs/own-data.md.
    """

    @property
    def data(self) -> Callable[..., Mapping[str, NDArray[Any]]]:
        """Gives, of the options of the task, ``x_train``, ``y_train`` and what it has of the other splits."""


@dataclass(frozen=True)
class Normalisation:
    """How stored pixels become the input of a network: ``(pixel - mean) / std``, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, pixels: NDArray[Any]) -> Normalisation:
        """Mean 0 and variance 1 for bytes ``(n, c, h, w)``; floats are taken to be normalised already."""
        channels = pixels.shape[1]
        if pixels.dtype != np.uint8:
            return cls((0.0,) * channels, (1.0,) * channels)
        mean, std = [], []
        for channel in range(channels):
            counts = np.bincount(pixels[:, channel].ravel(), minlength=256) / pixels[:, channel].size
            middle = float(counts @ np.arange(256))
            mean.append(middle)
            std.append(math.sqrt(float(counts @ (np.arange(256) - middle) ** 2)) or 1.0)
        return cls(tuple(mean), tuple(std))

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Inputs of a network, float32 ``(n, c, h, w)``, of stored pixels of that shape."""
        mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        inputs: NDArray[np.float32] = (pixels.astype(np.float32) - mean) / std
        return inputs


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their targets.

    Attributes:
        pixels: As stored, uint8 or float32 ``(variants * n, c, h, w)``, variant by variant.
        labels: Classes int64 ``(variants * n,)``, or a task's own targets ``(variants * n, ...)``.
        normalisation: Makes inputs of pixels; the training split's for all three.
        variants: Images per independent example; training takes one of them per epoch.
    """

    pixels: NDArray[Any]
    labels: NDArray[Any]
    normalisation: Normalisation
    variants: int = 1

    @property
    def examples(self) -> int:
        """Number of independent examples, ``n``: images of one example are not independent."""
        return len(self.labels) // self.variants

    @property
    def images(self) -> NDArray[np.float32]:
        """All inputs, float32 ``(variants * n, c, h, w)``; made anew, four times the size of bytes."""
        return self.normalisation(self.pixels)

    def take(self, count: int) -> NDArray[np.float32]:
        """Inputs of ``count`` images spread evenly over the split (all if it has fewer)."""
        rows = np.linspace(0, len(self.labels) - 1, min(count, len(self.labels))).round().astype(int)
        return self.normalisation(self.pixels[rows])


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits of a task; no image is in two of them."""

    train: Split
    validation: Split
    test: Split

    def __getitem__(self, name: SplitName) -> Split:
        split: Split = getattr(self, name)
        return split

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the images and targets of each split, by its name."""
        return {name: _hash(self[name].pixels, self[name].labels) for name in SPLIT_NAMES}


def _hash(*arrays: NDArray[Any]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images.

    Attributes:
        shift: Images move by up to this many pixels in both directions, borders repeated.
        flip: Whether half of the images are mirrored left to right.
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.shift, bool) or not isinstance(self.shift, int) or self.shift < 0:
            raise DataError(f"task option 'shift' is a number of pixels >= 0, got {self.shift!r}")
        if not isinstance(self.flip, bool):
            raise DataError(f"task option 'flip' is true or false, got {self.flip!r}")


def numbered(classes: int) -> tuple[str, ...]:
    """Names of classes that have none: their numbers."""
    return tuple(map(str, range(classes)))


@dataclass(frozen=True, eq=False)
class Task:
    """What a network is to learn, and how it is judged.

    Attributes:
        name: Name in records and reports.
        classes: Number of outputs of the network.
        data: The splits.
        credits: Whom the data is owed to, one sentence each.
        metric: Name of the metric.
        maximise: Whether more of it is better.
        augmentation: Random changes to training images.
        loss: None for cross entropy.
        measure: Value of the metric; None for accuracy.
        whole_split: Whether ``measure`` means nothing on a sample of a split, so that it has no interval.
        trainer: None for Boardwise's own recipe.
        class_names: What the outputs stand for, in order; empty where they have no names.
    """

    name: str
    classes: int
    data: Splits
    credits: tuple[str, ...] = ()
    metric: str = "accuracy"
    maximise: bool = True
    augmentation: Augmentation = Augmentation()
    loss: Loss | None = None
    measure: Measure | None = None
    whole_split: bool = False
    trainer: Trainer | None = None
    class_names: tuple[str, ...] = ()

    @property
    def input_shape(self) -> Shape:
        """Shape of an image, ``(channels, height, width)``."""
        return tuple(self.data.train.pixels.shape[1:])

    def splits(self) -> Splits:
        """Training, validation (what a search sees) and test (what a report shows)."""
        return self.data

    def score(self, outputs: NDArray[np.float32], split: Split, *, with_interval: bool = True) -> Score:
        """How good the outputs ``(variants * n, outputs)`` on a split are.

        Args:
            outputs: Of the network.
            split: Targets of the same rows.
            with_interval: Whether its interval is wanted too; that of a metric of the user's own takes
                :data:`search.bootstrap.SAMPLES` calls.
        """
        if self.measure is None:
            right = int((outputs.argmax(1) == split.labels).sum())
            return Score(right / len(split.labels), split.examples)
        # Copies: what the user's code does to its arguments must change neither the samples nor the data.
        value = _number(self.measure(outputs.copy(), split.labels.copy()))
        score = Score(value, split.examples, proportion=False)
        if not with_interval or not math.isfinite(score.value):
            return score
        if self.whole_split:
            return replace(score, no_interval="the task says that its metric needs the whole split")
        return bootstrap.with_samples(score, self.measure, outputs, split)


def _number(found: Any) -> float:
    """What a metric of the user's own gave."""
    if not isinstance(found, str | bytes):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return float(found)
    raise TypeError(f"metric() is to return a number, it returned {reprlib.repr(found)}")
