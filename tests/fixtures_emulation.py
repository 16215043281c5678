"""Emulated boards for tests: images in a cache beside the tests, and one board that a module shares."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.emulation.board import EmulatedBoard
from devices.emulation.places import CACHE
from harness.pytest_plugin import emulated_board

__all__ = ["emulated_board"]  # the plug-in's own; here too, for where the package was not installed anew

Start = Callable[..., EmulatedBoard]


@pytest.fixture(scope="module")
def image_cache() -> Iterator[Path]:
    """Images of the tests are kept beside them, unless somebody says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(os.environ.get(CACHE) or Path(__file__).parent / ".cache" / "boardwise")
        patch.setenv(CACHE, str(folder))
        yield folder


@pytest.fixture(scope="module")
def shared_pi4(image_cache: Path) -> Iterator[EmulatedBoard]:
    """A board for all tests of a module, which leave it as they found it."""
    board = EmulatedBoard(f"pytest-{os.getpid()}-shared", "pi4")
    board.start()
    yield board
    board.remove()
