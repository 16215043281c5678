"""Joulescope JS110 and JS220, by the package ``joulescope`` (1.x), which wants numpy 2.2 or later.

Where the machine's Python cannot have that, its agent may be started with a Python of its own (``python``
in the meter's table of the lab file).  The instrument adds up the energy by itself, so nothing is lost
between readings; they are stamped when they arrive.
"""

from __future__ import annotations

import queue
from typing import Any, Dict, List

from ..failures import Failure, describe
from ..metering import COUNTER, Facts, Glitch, Sample, Text, now_ns
from ..options import Choice

OPTIONS = {"serial": Text(""), "coverage": Choice("rails", ("rails", "module", "package", "wall"))}

RATE_HZ = 50
ARRIVAL_LIMIT_S = 2.0
GAIN = 0.005


class Joulescope:
    """An instrument.

    Args:
        device: Of the package, not opened yet.
        coverage: What it is wired to.
    """

    def __init__(self, device: Any, coverage: str) -> None:
        self._device = device
        self._arrived: "queue.SimpleQueue[Sample]" = queue.SimpleQueue()
        self._last_ns = now_ns()
        device.open()
        device.parameter_set("reduction_frequency", "%d Hz" % RATE_HZ)
        device.statistics_callback_register(self._take, "sensor")
        self.facts = Facts(
            source="joulescope %s" % device,
            coverage=coverage,
            period_s=1.0 / RATE_HZ,
            kind=COUNTER,
            gain=GAIN,
        )

    def read(self) -> List[Sample]:
        """Energy since it was opened [J], as often as it arrived."""
        samples = []
        while not self._arrived.empty():
            samples.append(self._arrived.get())
        if samples:
            self._last_ns = samples[-1][0]
        elif now_ns() - self._last_ns > ARRIVAL_LIMIT_S * 1e9:
            raise Failure("meter", "%s has gone silent; was it unplugged?" % self.facts.source)
        return samples

    def close(self) -> None:
        """Lets go of the instrument."""
        self._device.statistics_callback_unregister(self._take, "sensor")
        self._device.close()

    def _take(self, statistics: Dict[str, Any]) -> None:
        """Called in the package's own thread."""
        self._arrived.put((now_ns(), (float(statistics["accumulators"]["energy"]["value"]),)))


def open_meter(root: str, options: Dict[str, Any]) -> Joulescope:
    """The instrument with the serial number that the lab file names, or the only one.

    Raises:
        Failure: ``meter`` if the package or the instrument is missing.
    """
    try:
        import joulescope
    except ImportError as error:
        message = "the package joulescope is missing (%s): python3 -m pip install joulescope" % error
        raise Failure("meter", message) from error
    try:
        found = joulescope.scan(config="auto")
        fitting = [device for device in found if options["serial"] in str(device)]
        if len(fitting) != 1:
            names = ", ".join(map(str, found)) or "none"
            raise Failure(
                "meter", "joulescope: %d fit; name one with serial; found: %s" % (len(fitting), names)
            )
        return Joulescope(fitting[0], options["coverage"])
    except (RuntimeError, OSError, Glitch) as error:
        message = "joulescope: %s; its udev rules must be installed and nothing else may use it"
        raise Failure("meter", message % describe(error)) from error
