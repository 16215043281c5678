"""Tasks by name or path: two built in, a folder of images, an archive of arrays, a task of one's own."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import DataError, unknown_name
from search import digits_in_photos as photos
from search.array_cache import Arrays, cached_arrays
from search.arrays import Dealing, splits_of
from search.image_folder import class_names, image_folder
from search.task_file import task_file
from search.tasks import SPLIT_NAMES, Augmentation, Normalisation, Split, Splits, Task, numbered

_DEALING = tuple(field.name for field in fields(Dealing))
_AUGMENTATION = tuple(field.name for field in fields(Augmentation))


def load_task(name_or_path: str | Path, options: Mapping[str, Any] | None = None) -> Task:
    """A task, ready to train on.

    Args:
        name_or_path: ``digits``, ``digits_in_photos``, or the path of an image folder, of an ``.npz`` file
            or of the Python file of a task (docs/own-data.md).
        options: Options of the task: for a folder ``size``, ``channels``, ``validation``, ``test``,
            ``allow_duplicates``, ``shift`` and ``flip``; for an ``.npz`` file the same without ``size``
            and ``channels``; for a Python file whatever its ``data`` takes.

    Raises:
        DataError: If there is no such task or its data cannot be used; the message says why.
    """
    options = dict(options or {})
    name = str(name_or_path)
    if name in _BUILT_IN:
        _only(options, (), name)
        return _BUILT_IN[name]()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _from_folder(path, options)
    if path.suffix == ".npz" and path.is_file():
        return _from_archive(path, options)
    if path.suffix == ".py" and path.is_file():
        return task_file(path, options)
    if path.exists():
        raise DataError(f"{path}: a task is a folder of images, an .npz file or a .py file")
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"{path}: no such file or folder")
    raise DataError(unknown_name("task", name, _BUILT_IN))


def located(name_or_path: str) -> str:
    """The name of a built-in task as it is, a path as an absolute one: other processes may work elsewhere."""
    return name_or_path if name_or_path in _BUILT_IN else str(Path(name_or_path).expanduser().absolute())


def _only(options: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in options:
        if name not in known:
            raise DataError(f"{where}: {unknown_name('task option', name, known)}")


def _picked(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


# --------------------------------------------------------------------------- built in


def _digits() -> Task:
    """The 1,797 digits of scikit-learn, 8x8, in 16 shades; small and easy, for tests."""
    arrays = cached_arrays("digits", "scikit-learn", _scikit_learn_digits)
    splits = splits_of(arrays, "digits", Dealing(validation=0.2, test=0.2))
    credit = (
        "Digits: Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, UCI), in scikit-learn."
    )
    return Task("digits", 10, splits, (credit,), augmentation=Augmentation(shift=1), class_names=numbered(10))


def _scikit_learn_digits() -> Arrays:
    from sklearn.datasets import load_digits  # a second to import, in every worker

    bunch = load_digits()
    return {"x_train": bunch.images.astype(np.uint8), "y_train": bunch.target}


def _digits_in_photos() -> Task:
    arrays = photos.digits_in_photos()
    normalisation = Normalisation.of(arrays["x_train"])
    splits = {}
    for name in SPLIT_NAMES:
        labels = arrays[f"y_{name}"]
        variants = len(labels) // len(arrays[f"digit_{name}"])
        splits[name] = Split(arrays[f"x_{name}"], labels, normalisation, variants)
    return Task(
        "digits_in_photos",
        10,
        Splits(**splits),
        photos.CREDITS,
        augmentation=Augmentation(shift=1),
        class_names=numbered(10),
    )


_BUILT_IN = {"digits": _digits, "digits_in_photos": _digits_in_photos}


# --------------------------------------------------------------------------- the user's


def _from_folder(path: Path, options: Mapping[str, Any]) -> Task:
    _only(options, ("size", "channels", *_DEALING, *_AUGMENTATION), str(path))
    arrays = image_folder(path, **_picked(options, ("size", "channels")))
    return replace(_classification(path, arrays, options), class_names=tuple(class_names(path)))


def _from_archive(path: Path, options: Mapping[str, Any]) -> Task:
    _only(options, (*_DEALING, *_AUGMENTATION), str(path))
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path}: holds a single array; write it with np.savez(path, x_train=..., ...)"
                )
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an .npz file: {error}") from error
    return _classification(path, arrays, options)


def _classification(path: Path, arrays: Mapping[str, NDArray[Any]], options: Mapping[str, Any]) -> Task:
    splits = splits_of(arrays, str(path), Dealing(**_picked(options, _DEALING)))
    augmentation = Augmentation(**_picked(options, _AUGMENTATION))
    classes = int(splits.train.labels.max()) + 1
    return Task(path.name, classes, splits, augmentation=augmentation, class_names=numbered(classes))
