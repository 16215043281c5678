"""Power switches: what can turn a device on and off.

Each kind is a file in ``devices/power_switches/`` with a class ``Switch``, made from the device's entry and
the options of its ``power_switch`` table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from devices.board_agent import BoardAgent


class PowerSwitch(ABC):
    """A device's power."""

    @abstractmethod
    def on(self) -> None:
        """Turns the device on if it is off, and returns when it can be tried to reach it.

        Raises:
            BoardError: If that fails.
        """

    @abstractmethod
    def off(self) -> None:
        """Takes its power away; may be called twice."""

    def cycle(self) -> None:
        """Off and on again."""
        self.off()
        self.on()

    def attended(self, agent: BoardAgent) -> BoardAgent:
        """The agent, with what the switch has to do before and after its work; by default nothing."""
        return agent

    def wake(self) -> None:
        """The device is about to be spoken to by somebody else than its agent; by default nothing."""
        return

    def release(self) -> None:
        """The device is not needed any more; by default it is left on.  May be called twice."""
        return
