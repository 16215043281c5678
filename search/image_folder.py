"""A folder of images, one subfolder per class, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from results.errors import DataError
from search.array_cache import Arrays, cached_arrays
from search.tasks import SPLIT_NAMES

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_MODES = {1: "L", 3: "RGB"}

Sample = tuple[Path, int]
"""An image file and its class."""


def image_folder(folder: Path, size: Any = None, channels: Any = 3) -> Arrays:
    """The images below a folder, decoded and resized once per machine.

    Args:
        folder: Holds one subfolder per class, or ``train`` and, as far as it has them, ``validation`` and
            ``test`` with one subfolder per class each.  Classes are numbered in the order of their names.
        size: Edge in pixels, or ``[height, width]``; None where all images are of one size.
        channels: 3 for colour, 1 for grey.

    Returns:
        ``x_train`` uint8 ``(n, channels, height, width)``, ``y_train`` int64 ``(n,)``, and so on.

    Raises:
        DataError: If there are no images, one cannot be read, or sizes differ and none is asked for.
    """
    if channels not in _MODES or isinstance(channels, bool):
        raise DataError(f"task option 'channels' is 1 (grey) or 3 (colour), got {channels!r}")
    shape = _shape(size)
    samples = _samples(folder)
    files = [(name, path, label) for name, rows in samples.items() for path, label in rows]
    stats = [(name, label, str(p.relative_to(folder)), *_version(p)) for name, p, label in files]
    recipe = {"folder": str(folder.resolve()), "size": shape, "channels": channels, "files": stats}
    return cached_arrays("folder", _plain(recipe), lambda: _decoded(samples, shape, channels))


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, "files": [list(row) for row in recipe["files"]]}


def _shape(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = [size, size] if isinstance(size, int) else size
    fits = isinstance(pair, list | tuple) and len(pair) == 2
    if not fits or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in pair):
        raise DataError(f"task option 'size' is an edge in pixels or [height, width], got {size!r}")
    return pair[0], pair[1]


def class_names(folder: Path) -> list[str]:
    """Names of the classes, in the order of their numbers; arguments and errors as :func:`image_folder`."""
    train = _parts(folder)["train"]
    classes = [path.name for path in _subfolders(train)]
    if len(classes) < 2:
        raise DataError(f"{train}: needs a subfolder per class, at least two; has {classes}")
    return classes


def _parts(folder: Path) -> dict[str, Path]:
    """Folders by split."""
    parts: dict[str, Path] = {name: folder / name for name in SPLIT_NAMES if (folder / name).is_dir()}
    return parts if "train" in parts else {"train": folder}


def _samples(folder: Path) -> dict[str, list[Sample]]:
    """Files and classes by split."""
    classes = class_names(folder)
    return {name: _labelled(part, classes) for name, part in _parts(folder).items()}


def _labelled(part: Path, classes: Sequence[str]) -> list[Sample]:
    samples = []
    for folder in _subfolders(part):
        if folder.name not in classes:
            raise DataError(f"{folder}: the training images have no such class; they have {list(classes)}")
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"{folder}: holds no images ({', '.join(_SUFFIXES)})")
        samples += [(path, classes.index(folder.name)) for path in files]
    return samples


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _decoded(samples: dict[str, list[Sample]], shape: tuple[int, int] | None, channels: int) -> Arrays:
    arrays: Arrays = {}
    first: tuple[int, ...] = ()
    for name, rows in samples.items():
        images: list[NDArray[np.uint8]] = []
        for path, _ in rows:
            image = _image(path, shape, channels)
            height, width = first = first or image.shape[:2]
            if image.shape[:2] != first:
                raise DataError(
                    f"{path} is {image.shape[0]}x{image.shape[1]}, others are {height}x{width}; set the "
                    "task option size, such as size = 32"
                )
            images.append(image)
        arrays[f"x_{name}"] = np.stack(images).transpose(0, 3, 1, 2)
        arrays[f"y_{name}"] = np.array([label for _, label in rows], np.int64)
    return arrays


def _image(path: Path, shape: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    """One image, uint8 ``(height, width, channels)``."""
    try:
        with Image.open(path) as file:
            image = file.convert(_MODES[channels])
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    if shape is not None and (image.height, image.width) != shape:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)
