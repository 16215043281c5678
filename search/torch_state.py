"""PyTorch's state that all threads of a process share, and the one lock for whoever changes it.

Random generators, the number of threads, the default type and the treatment of denormals belong to the
process.  Whatever sets one of them for a while holds :data:`LOCK` until it is put back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LOCK = threading.RLock()
"""Held while this process's generators, threads or default type are not its own."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's generator at a seed, for code that draws from it; it and the default type are put back."""
    with LOCK, torch.random.fork_rng(devices=[]):
        kind = torch.get_default_dtype()
        try:
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_default_dtype(kind)
