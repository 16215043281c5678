"""Arrays that take long to make, kept in the user's cache folder under a hash of how they are made."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from results.codec import digest

Arrays = dict[str, NDArray[Any]]

_log = logging.getLogger(__name__)


def cached_arrays(name: str, recipe: Any, make: Callable[[], Arrays]) -> Arrays:
    """What ``make`` returns, made once per machine and recipe.

    Any number of processes may ask at once: a file appears whole or not at all.  A damaged file is made
    again; a cache that cannot be written is said in the log and costs only the time.

    Args:
        name: Start of the file's name.
        recipe: JSON value that everything in the arrays follows from.
        make: Makes the arrays.
    """
    path = platformdirs.user_cache_path("boardwise") / "datasets" / f"{name}-{digest(recipe)[:16]}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s is damaged (%s) and made again", path, error)
    arrays = make()
    try:
        _write(path, arrays)
    except OSError as error:
        _log.warning("%s cannot be kept: %s", path, error)
    return arrays


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
