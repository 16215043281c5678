"""For pytest, in this project and in others: emulated boards as a fixture, and the marker ``qemu``.

::

    @pytest.mark.qemu
    def test_my_model_runs(emulated_board):
        board = emulated_board("pi4")          # boots in seconds; the first time ever, its image is built
        with connect(board.entry) as connection:
            ...
        board.pause()                          # and everything else in docs/emulation.md

Boards are stopped after the test.  Images are kept in the user's cache, or where ``BOARDWISE_CACHE`` says.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devices.emulation.board import EmulatedBoard

_NUMBERS = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line("markers", "qemu: boots an emulated board")


@pytest.fixture
def emulated_board() -> Iterator[Callable[..., EmulatedBoard]]:
    """Starts emulated boards: ``emulated_board(profile, how="state", **options of EmulatedBoard)``."""
    with contextlib.ExitStack() as boards:

        def start(profile: str, how: Any = "state", **options: Any) -> EmulatedBoard:
            from devices.emulation.board import EmulatedBoard

            board = EmulatedBoard(f"pytest-{os.getpid()}-{next(_NUMBERS)}", profile, **options)
            boards.callback(board.remove)
            board.start(how)
            return board

        yield start
