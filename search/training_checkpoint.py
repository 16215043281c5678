"""The state of a training after an epoch, on disk: what a process that takes over needs to go on.

It is kept after an epoch where at least :data:`EVERY_S` seconds of training have passed since it was last
kept: writing it takes some milliseconds, more than a tenth of an epoch that takes less than a tenth of a
second.  So a process that is killed costs the epoch under way, and of shorter epochs those few before it.

A training that goes on from here gives the bytes of one that was never interrupted: weights, running
statistics, the optimiser, the schedule and all generators are kept; images and their changes follow from the
seed and the number of the epoch.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

_logger = logging.getLogger(__name__)

EVERY_S = 2.0
"""CPU seconds of training between two states that are kept."""


class Stateful(Protocol):
    """An optimiser, a schedule, or whatever else changes from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Takes on a state."""


class Checkpoint:
    """One file, replaced as a whole.

    Args:
        path: Where it is; None for a training that nobody takes over.
        every_s: CPU seconds of training between two states; 0 for one after every epoch.
    """

    def __init__(self, path: Path | None, every_s: float = EVERY_S) -> None:
        self._path = path
        self._every_s = every_s
        self._kept_at_s = 0.0
        self._module: nn.Module | None = None
        self._parts: dict[str, Stateful] = {}

    def attach(self, module: nn.Module, parts: Mapping[str, Stateful]) -> dict[str, Any] | None:
        """Names what is to be kept, and takes on what the file has.

        A file that is missing, damaged or of another structure is not used; nothing has changed then.

        Returns:
            ``curve`` and ``training_s`` as :meth:`save` was told them; None where the training begins.
        """
        self._module, self._parts = module, dict(parts)
        kept = self._read()
        if kept is None:
            return None
        before = self._states()
        try:
            self._take_on(kept)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            self._take_on(before)
            _logger.warning("%s is of another training, so this one begins anew: %s", self._path, error)
            return None
        progress: dict[str, Any] = kept["progress"]
        self._kept_at_s = progress["training_s"]
        return progress

    def save(self, curve: Sequence[float], training_s: float) -> None:
        """Keeps the state of everything attached, if it is time to.

        Nothing is kept where nothing is attached, or there is no file.

        Args:
            curve: Validation score after each epoch so far.
            training_s: CPU seconds of training so far.
        """
        if self._path is None or self._module is None or training_s - self._kept_at_s < self._every_s:
            return
        new = self._path.with_suffix(".new")
        progress = {"curve": list(curve), "training_s": training_s}
        torch.save({**self._states(), "progress": progress}, new)
        new.replace(self._path)
        self._kept_at_s = training_s

    def _read(self) -> dict[str, Any] | None:
        if self._path is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            try:
                # Not weights only: numpy's and Python's generators are among it.  It is a file of our own.
                kept: dict[str, Any] = torch.load(self._path, weights_only=False)
                return kept
            except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
                _logger.warning("%s is damaged, so the training begins anew: %s", self._path, error)
        return None

    def _states(self) -> dict[str, Any]:
        module = self._module
        return {
            "module": {} if module is None else {k: v.clone() for k, v in module.state_dict().items()},
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "generators": (torch.get_rng_state(), random.getstate(), np.random.get_state()),
        }

    def _take_on(self, kept: Mapping[str, Any]) -> None:
        if kept["parts"].keys() != self._parts.keys():
            raise ValueError(f"it keeps {', '.join(kept['parts'])}, not {', '.join(self._parts)}")
        state = {} if self._module is None else self._module.state_dict()
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in kept["module"].items()}:
            raise ValueError("it keeps the weights of another network")
        for name, tensor in state.items():
            tensor.copy_(kept["module"][name])
        for name, part in self._parts.items():
            part.load_state_dict(kept["parts"][name])
        with_torch, of_python, of_numpy = kept["generators"]
        torch.set_rng_state(with_torch)
        random.setstate(of_python)
        np.random.set_state(of_numpy)
