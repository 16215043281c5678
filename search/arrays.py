"""Arrays of a data set, checked, dealt to three splits and brought into one form.

The same few names everywhere: ``x_train``, ``y_train`` and, optionally, ``x_validation``,
``y_validation``, ``x_test``, ``y_test``.  A split that is missing is taken off the training data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.errors import DataError, unknown_name
from search.tasks import SPLIT_NAMES, Normalisation, Split, SplitName, Splits

_CHANNELS = (1, 3, 4)
_DEAL_SEED = 1797
"""Splits are dealt once and for all: two studies on the same data see the same test images."""


@dataclass(frozen=True)
class Dealing:
    """How missing splits are taken off the training data.

    Attributes:
        validation: Share of the examples.
        test: Share of the examples.
        allow_duplicates: Whether given splits may have images in common.
    """

    validation: float = 0.15
    test: float = 0.15
    allow_duplicates: bool = False

    def __post_init__(self) -> None:
        for name, share in (("validation", self.validation), ("test", self.test)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
                raise DataError(f"task option {name!r} is a share between 0 and 1, got {share!r}")
        if self.validation + self.test >= 1:
            raise DataError("task options 'validation' and 'test' leave nothing to train on")
        if not isinstance(self.allow_duplicates, bool):
            raise DataError(f"task option 'allow_duplicates' is true or false, got {self.allow_duplicates!r}")


Part = tuple[NDArray[Any], NDArray[Any]]


def splits_of(
    arrays: Mapping[str, Any], where: str, dealing: Dealing, *, outputs: int | None = None
) -> Splits:
    """The three splits of a data set.

    Args:
        arrays: By name, see the top of this file.  Images are ``(n, h, w)``, ``(n, c, h, w)`` or, with
            1, 3 or 4 channels, ``(n, h, w, c)``; bytes, other integers within 0..255, or floats.
        where: File or task, for messages.
        dealing: How missing splits are made.
        outputs: Number of outputs of a task with targets of its own; None for classes 0, 1, ...

    Raises:
        DataError: For missing, unfit or contradictory arrays; the message names which and why.
    """
    known = [f"{axis}_{split}" for split in SPLIT_NAMES for axis in "xy"]
    for name in arrays:
        if name not in known:
            raise DataError(f"{where}: {unknown_name('array', str(name), known)}")
    given = {name: _part(arrays, name, where, outputs) for name in SPLIT_NAMES if f"x_{name}" in arrays}
    if "train" not in given:
        raise DataError(f"{where}: x_train is missing; there is {', '.join(sorted(arrays)) or 'nothing'}")
    _check_alike(given, where)
    parts = _dealt(given, where, dealing)
    if outputs is None:
        _check_classes(parts, where)
    if not dealing.allow_duplicates:
        _check_disjoint(parts, where)
    normalisation = Normalisation.of(parts["train"][0])
    return Splits(**{name: Split(*parts[name], normalisation) for name in SPLIT_NAMES})


def _part(arrays: Mapping[str, Any], name: SplitName, where: str, outputs: int | None) -> Part:
    if f"y_{name}" not in arrays:
        raise DataError(f"{where}: x_{name} has no y_{name}")
    pixels = _images(np.asarray(arrays[f"x_{name}"]), f"{where}: x_{name}")
    raw = np.asarray(arrays[f"y_{name}"])
    labels = (_classes if outputs is None else _targets)(raw, f"{where}: y_{name}")
    if len(pixels) != len(labels):
        raise DataError(f"{where}: x_{name} has {len(pixels)} rows, y_{name} has {len(labels)}")
    if not len(pixels):
        raise DataError(f"{where}: x_{name} is empty")
    return pixels, labels


def _images(x: NDArray[Any], what: str) -> NDArray[Any]:
    """Images as uint8 or float32 ``(n, c, h, w)``."""
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise DataError(f"{what} is to be (n, h, w), (n, c, h, w) or (n, h, w, c), got shape {x.shape}")
    if x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            raise DataError(f"{what} has {int((~np.isfinite(x)).sum())} values that are not finite")
        return np.ascontiguousarray(x, np.float32)
    if x.dtype.kind not in "iub":
        raise DataError(f"{what} is to hold bytes or floats, got {x.dtype}")
    if x.size and (int(x.min()) < 0 or int(x.max()) > 255):
        raise DataError(f"{what} has integers outside 0..255; give such images as floats")
    return np.ascontiguousarray(x, np.uint8)


def _classes(y: NDArray[Any], what: str) -> NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iuf":
        raise DataError(f"{what} is to be classes (n,), integers 0, 1, ...; got {y.dtype} of shape {y.shape}")
    if not np.isfinite(y).all() or (y != np.floor(y)).any() or (y < 0).any():
        raise DataError(f"{what} is to be classes 0, 1, ...; it has negative, broken or missing numbers")
    return y.astype(np.int64)


def _targets(y: NDArray[Any], what: str) -> NDArray[Any]:
    if y.ndim < 1 or y.dtype.kind not in "iufb":
        raise DataError(f"{what} is to be numbers (n, ...), got {y.dtype} of shape {y.shape}")
    if not np.isfinite(y).all():
        raise DataError(f"{what} has {int((~np.isfinite(y)).sum())} values that are not finite")
    return np.ascontiguousarray(y, np.float32 if y.dtype.kind == "f" else np.int64)


def _check_alike(given: Mapping[SplitName, Part], where: str) -> None:
    pixels, labels = given["train"]
    for name, (x, y) in given.items():
        if x.shape[1:] != pixels.shape[1:] or x.dtype != pixels.dtype:
            raise DataError(
                f"{where}: x_{name} has images {x.dtype} {x.shape[1:]}, "
                f"x_train has {pixels.dtype} {pixels.shape[1:]}"
            )
        if y.shape[1:] != labels.shape[1:] or y.dtype != labels.dtype:
            raise DataError(f"{where}: y_{name} has targets of another shape or type than y_train")


# --------------------------------------------------------------------------- dealing


def _dealt(given: dict[SplitName, Part], where: str, dealing: Dealing) -> dict[SplitName, Part]:
    """All three splits: those missing are taken off the training data."""
    held_out: tuple[SplitName, ...] = ("validation", "test")
    wanted = [(name, getattr(dealing, name)) for name in held_out if name not in given]
    if not wanted:
        return given
    pixels, labels = given["train"]
    owner = _assign(pixels, labels, [share for _, share in wanted], where)
    parts = dict(given)
    dealt: list[SplitName] = ["train", *(name for name, _ in wanted)]
    for number, name in enumerate(dealt):
        rows = owner == number
        parts[name] = pixels[rows], labels[rows]
    return parts


def _assign(pixels: NDArray[Any], labels: NDArray[Any], shares: list[float], where: str) -> NDArray[np.int64]:
    """Number of the part that each row goes to: 0 for training, then one per share.

    Class by class; exact copies of an image stay together, so that none is learnt and tested at once.
    """
    _, first, copy_of = np.unique(_fingerprints(pixels), return_index=True, return_inverse=True)
    order = np.argsort(first)  # by first appearance: independent of the fingerprints' own order
    owner = np.zeros(len(first), np.int64)
    kinds = labels[first] if labels.ndim == 1 and labels.dtype == np.int64 else np.zeros(len(first), int)
    rng = np.random.default_rng(_DEAL_SEED)
    for kind in np.unique(kinds):
        members = rng.permutation(order[kinds[order] == kind])
        if len(members) <= len(shares):
            raise DataError(
                f"{where}: class {kind} has {len(members)} different images in x_train, "
                f"too few for {len(shares) + 1} splits; give more of them, or the splits themselves"
            )
        taken = 0
        for number, share in enumerate(shares, start=1):
            count = max(1, round(share * len(members)))
            owner[members[taken : taken + count]] = number
            taken += count
        if taken >= len(members):
            raise DataError(f"{where}: class {kind} has too few images for these shares of them")
    assigned: NDArray[np.int64] = owner[copy_of]
    return assigned


def _fingerprints(pixels: NDArray[Any]) -> NDArray[np.bytes_]:
    """16 bytes per image, equal for equal images."""
    rows = np.ascontiguousarray(pixels)
    return np.array([hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows], "S32")


def _check_classes(parts: Mapping[SplitName, Part], where: str) -> None:
    present = np.unique(parts["train"][1])
    if len(present) < 2:
        raise DataError(f"{where}: y_train has one class only; there is nothing to tell apart")
    if present[-1] != len(present) - 1:
        gap = int(np.flatnonzero(np.arange(len(present)) != present)[0])
        raise DataError(f"{where}: classes are to be 0..{len(present) - 1}; y_train has no {gap}")
    for name in ("validation", "test"):
        high = int(parts[name][1].max())
        if high >= len(present):
            raise DataError(f"{where}: y_{name} has class {high}; y_train has 0..{len(present) - 1} only")


def _check_disjoint(parts: Mapping[SplitName, Part], where: str) -> None:
    seen: dict[bytes, SplitName] = {}
    for name in SPLIT_NAMES:
        prints = np.unique(_fingerprints(parts[name][0])).tolist()
        shared = [mark for mark in prints if mark in seen]
        if shared:
            raise DataError(
                f"{where}: {len(shared)} images of {name} are in {seen[shared[0]]} too, so its score would "
                "be too good; remove them, or set the task option allow_duplicates = true"
            )
        seen.update(dict.fromkeys(prints, name))


def nested_subset(labels: NDArray[Any], share: float) -> NDArray[np.int64]:
    """Rows of a share of the examples, in ascending order.

    Stratified where ``labels`` are classes, at least one row of each; a smaller share is part of a
    larger one, so that fidelities differ in how much they see and not in what.

    Args:
        labels: Classes int64 ``(n,)``, or other targets ``(n, ...)``.
        share: In (0, 1].
    """
    whole = labels.ndim != 1 or labels.dtype != np.int64
    kinds = np.zeros(len(labels), np.int64) if whole else labels
    rng = np.random.default_rng(_DEAL_SEED)
    chosen = []
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))
