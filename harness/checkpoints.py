"""Trained weights as bytes: an uncompressed .npz that is equal for equal weights."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from results.errors import StoreError

Weights = Mapping[str, NDArray[np.float32]]

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""np.savez stamps the time of day into the archive; equal weights must give equal bytes."""


def pack(weights: Weights) -> bytes:
    """The weights as an .npz archive, entries in sorted order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(weights):
            entry = io.BytesIO()
            np.save(entry, np.ascontiguousarray(weights[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), entry.getvalue())
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, NDArray[np.float32]]:
    """The weights of an archive that :func:`pack` made.

    Raises:
        StoreError: If the archive is damaged.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"a checkpoint is damaged: {error}") from error
