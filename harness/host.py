"""This machine as one shared slot: either it works, or a device that is this very machine measures.

Training processes are stopped while such a device measures (SIGSTOP keeps them where they are and
costs nothing), and the search's own work on the CPU (exports, checks, the strategy's thinking) takes
turns with it.  Devices that are other machines are not held up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Pausable(Protocol):
    """Something that can be stopped for a while, such as a pool of training processes."""

    def pause(self) -> None:
        """Stops; calls may be nested."""

    def resume(self) -> None:
        """Goes on."""


class Host:
    """Many may work at a time, or one may measure; who wants to measure goes first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._working = 0
        self._measuring = False
        self._waiting = 0
        self._background: Pausable | None = None

    def set_background(self, background: Pausable | None) -> None:
        """Names what is stopped while this machine measures."""
        self._background = background

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Held while the CPU is used by the search itself."""
        with self._condition:
            self._condition.wait_for(lambda: not self._measuring and not self._waiting)
            self._working += 1
        try:
            yield
        finally:
            with self._condition:
                self._working -= 1
                self._condition.notify_all()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Held while a device that is this machine measures: nothing else of ours runs."""
        with self._condition:
            self._waiting += 1
            self._condition.wait_for(lambda: not self._measuring and not self._working)
            self._waiting -= 1
            self._measuring = True
        background = self._background
        try:
            if background is not None:
                background.pause()
            try:
                yield
            finally:
                if background is not None:
                    background.resume()
        finally:
            with self._condition:
                self._measuring = False
                self._condition.notify_all()


def boot_id() -> str:
    """This machine's boot id (kernel: random(4)); equal to a device's if the device is this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
