"""Power of an emulated board: starts QEMU when the board is needed and stops it afterwards.

Written into the lab file by ``boardwise devices emulate``::

    [devices.pi4.power_switch]
    kind = "qemu"
    profile = "pi4"      # a file in devices/emulation/profiles/
    clock = "virtual"    # or "wall"
    cpus = 1             # more than one needs the wall clock
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

from devices.board_agent import BoardAgent
from devices.device import DeviceEntry
from devices.emulation.board import EmulatedBoard
from devices.emulation.resting import RestingAgent
from devices.power_switch import PowerSwitch
from devices.ssh_config import SshAddress
from results.errors import BoardError, ConfigError
from results.printable import printable


class Switch(PowerSwitch):
    """The switch of one emulated board.

    Args:
        entry: The device.
        profile: Its profile.
        clock: How its time passes.
        cpus: Number of its CPUs.

    Raises:
        ConfigError: If the device is not reached by SSH, or an option cannot be used.
    """

    def __init__(self, entry: DeviceEntry, *, profile: str, clock: str = "virtual", cpus: int = 1) -> None:
        if entry.connection != "ssh" or SshAddress.parse(entry.address).port is None:
            raise ConfigError(
                f"[devices.{entry.name}]: an emulated board has connection = 'ssh' and a port in its"
                f" address, got {entry.connection!r} and {entry.address!r}; add it with"
                " `boardwise devices emulate`"
            )
        self._port = SshAddress.parse(entry.address).port
        self._name = entry.name
        self._said: set[str] = set()
        self.board = EmulatedBoard(entry.name, profile, clock=clock, cpus=cpus, say=self._say)  # type: ignore[arg-type]
        self._lock = threading.Lock()

    def on(self) -> None:
        """See :meth:`PowerSwitch.on`: from the saved state, or the one it has if it runs already."""
        with self._lock:
            self.board.start(port=self._port)

    def off(self) -> None:
        """See :meth:`PowerSwitch.off`."""
        self.board.stop()

    def attended(self, agent: BoardAgent) -> BoardAgent:
        """An agent whose board is paused whenever nothing is asked of it."""
        return RestingAgent(agent, self.board, self._say)

    def wake(self) -> None:
        """Goes on if the board is paused."""
        with suppress(BoardError):  # a board that has gone is found out by who speaks to it
            self.board.resume()

    def release(self) -> None:
        """Stops the board if it was started here; else it goes back to its rest."""
        with self._lock:
            if self.board.is_ours:
                self.board.stop()
            elif self.board.is_alive:
                self.board.pause()

    def _say(self, text: str) -> None:
        """Says on stderr what takes long, such as a wait for a turn; each thing once."""
        if text not in self._said:
            self._said.add(text)
            print(printable(f"{self._name}: {text}"), file=sys.stderr, flush=True)
