"""What a model file says of itself: its classes, and what becomes of an image before it is an input.

Without it a file is of use only to those who know how it was trained.  Exporters write it before the first
measurement, so that the file that is delivered is, byte for byte, the one that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from search.tasks import Task

Metadata = Mapping[str, str]
"""Texts by name, each a JSON value."""

NONE: Metadata = MappingProxyType({})
"""Of files that say nothing."""

FILE_METADATA = "file_metadata"
"""Where the configuration of a run has it; files of runs of earlier versions have none, and go on so."""


def with_layout(metadata: Metadata, layout: str) -> Metadata:
    """The metadata of a file whose input has this layout, in the order in which it is written."""
    return dict(sorted({**metadata, "input_layout": json.dumps(layout)}.items())) if metadata else NONE


def metadata_of(task: Task) -> Metadata:
    """The metadata of a task's models.

    ``classes`` holds the names in the order of the outputs, where the outputs are classes.  Inputs are
    ``(pixel - input_mean) / input_std`` per channel, of pixels as the data set stores them, ``input_pixels``.
    """
    train = task.splits().train
    values: dict[str, Any] = {
        "task": task.name,
        "input_pixels": train.pixels.dtype.name,
        "input_mean": train.normalisation.mean,
        "input_std": train.normalisation.std,
    }
    if task.class_names:
        values["classes"] = task.class_names
    return {name: json.dumps(value) for name, value in sorted(values.items())}
