"""The battery of a machine that runs on it: what the fuel gauge says while it is discharged.

The whole machine is in the figure, screen and all, and new values come every second at best, every minute
at worst; the sampler finds out.  A supply that is plugged in makes the figure meaningless, and what USB-C
has negotiated (``type`` USB, ``ucsi`` in the name) is no measurement at all.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Optional

from ..failures import Failure
from ..files import paths, read_text
from ..metering import Facts, Found, Number, Sample, SensorFile, stamped

OPTIONS = {"period_s": Number(0, 0, 600)}

LOOK_S, LOOK_EVERY_S = 30.0, 0.1
CHANGES_TO_TELL = 3
"""How long, and for how many changes, the period is looked for where it is not said."""

GAIN = 0.02
UNPLUGGED = "Discharging"


def find(root: str) -> Optional[Found]:
    """Whether there is a battery that tells its power; a full or charging one cannot be used now."""
    for supply in _batteries(root):
        state = _status(supply)
        return Found("" if state == UNPLUGGED else _remedy(supply, state))
    return None


class Battery:
    """A battery as a meter.

    Args:
        supply: Its folder.
        period_s: How often there is a new value; 0 to find out.
    """

    def __init__(self, supply: str, period_s: float) -> None:
        self._supply = supply
        self._files = [SensorFile(path, factor) for path, factor in _files(supply)]
        self.facts = Facts(
            source="battery " + os.path.basename(supply),
            coverage="battery",
            period_s=period_s or self._period_s(),
            gain=GAIN,
            leaves_out="the power supply",
            certain_period=True,
        )

    def read(self) -> List[Sample]:
        """The power that is drawn now [W].

        Raises:
            Failure: ``meter`` if it is not being discharged.
        """
        at_ns, power_w = stamped(self._power_w)
        state = _status(self._supply)
        if state != UNPLUGGED:
            raise Failure("meter", _remedy(self._supply, state))
        return [(at_ns, (power_w,))]

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()

    def _period_s(self) -> float:
        """Time between changes of the figure; the whole time of looking where there were too few."""
        changes: List[float] = []
        last_w = self._power_w()
        end_s = time.monotonic() + LOOK_S
        while time.monotonic() < end_s and len(changes) <= CHANGES_TO_TELL:
            time.sleep(LOOK_EVERY_S)
            now_w = self._power_w()
            if now_w != last_w:
                changes.append(time.monotonic())
            last_w = now_w
        if len(changes) <= CHANGES_TO_TELL:
            return LOOK_S
        return (changes[-1] - changes[0]) / CHANGES_TO_TELL

    def _power_w(self) -> float:
        product = 1.0
        for file in self._files:
            product *= file.read()
        return abs(product)  # some drivers give what flows out a sign


def open_meter(root: str, options: Dict[str, Any]) -> Battery:
    """The battery of this machine.

    Raises:
        Failure: ``meter`` if there is none, or it is not being discharged.
    """
    batteries = _batteries(root)
    if not batteries:
        raise Failure("meter", "no battery tells its power under /sys/class/power_supply")
    state = _status(batteries[0])
    if state != UNPLUGGED:
        raise Failure("meter", _remedy(batteries[0], state))
    return Battery(batteries[0], float(options["period_s"]))


def _batteries(root: str) -> List[str]:
    supplies = paths(root, "sys/class/power_supply/*")
    named = [s for s in supplies if "ucsi" not in os.path.basename(s)]
    return [s for s in named if read_text(os.path.join(s, "type")) == "Battery" and _files(s)]


def _files(supply: str) -> Any:
    power, *pair = (os.path.join(supply, name) for name in ("power_now", "voltage_now", "current_now"))
    if os.path.exists(power):
        return [(power, 1e-6)]
    return [(path, 1e-6) for path in pair] if all(os.path.exists(path) for path in pair) else []


def _status(supply: str) -> str:
    return read_text(os.path.join(supply, "status")) or "unknown"


def _remedy(supply: str, state: str) -> str:
    name = os.path.basename(supply)
    return "battery %s is %s: unplug the supply, the battery must be discharged" % (name, state.lower())
