"""The state of a training after an epoch, on disk: what a process that takes over needs to go on.

A training that goes on from here gives the bytes of one that was never interrupted: weights, running
statistics, the optimiser, the schedule and all generators are kept; images and their changes follow from the
seed and the number of the epoch.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

_logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """An optimiser, a schedule, or whatever else changes from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Takes on a state."""


class Checkpoint:
    """One file, replaced as a whole after every epoch.

    Args:
        path: Where it is; None for a training that nobody takes over.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._module: nn.Module | None = None
        self._parts: dict[str, Stateful] = {}

    def attach(self, module: nn.Module, parts: Mapping[str, Stateful]) -> dict[str, Any] | None:
        """Names what is to be kept, and takes on what the file has.

        A file that is missing, damaged or of another structure is not used; nothing has changed then.

        Returns:
            What :meth:`save` was told beside the states; None where the training begins.
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
        return progress

    def save(self, progress: Mapping[str, Any]) -> None:
        """Keeps the state of everything attached; nothing where nothing is attached, or there is no file."""
        if self._path is None or self._module is None:
            return
        new = self._path.with_suffix(".new")
        torch.save({**self._states(), "progress": dict(progress)}, new)
        new.replace(self._path)

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
