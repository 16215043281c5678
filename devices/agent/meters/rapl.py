"""Energy counters of x86 processors (RAPL), by the kernel's powercap interface.

Packages only, added over the sockets; their parts (core, uncore, dram) are not added to them.  Disk,
voltage regulators and power supply are outside.  Since CVE-2020-8694 the counters are readable by root
alone.  A counter wraps at ``max_energy_range_uj``; one that jumps by more than any package can have used
was reset, and what lies before and after does not belong together.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from ..failures import Failure
from ..files import paths, read_int, read_text
from ..metering import COUNTER, Facts, Found, Sample, SensorFile, denied, now_ns

OPTIONS: Dict[str, Any] = {}

PERIOD_S = 0.1
"""A counter needs few readings; hundreds a second would cost energy themselves (arXiv 2604.26815)."""

GREATEST_W = 1000.0
"""More than any package draws: what tells a reset from a wrap."""

STEP_S = 0.001
"""Counters move on every millisecond (Hahnel 2012), which blurs the ends of a run by this."""

GAIN = 0.05
REMEDY = (
    "for now: sudo chmod a+r %s; for good: a file in /etc/tmpfiles.d/ with the line"
    " 'z /sys/class/powercap/intel-rapl:*/energy_uj 0440 root GROUP', GROUP being one of the login's"
)


def find(root: str) -> Optional[Found]:
    """Whether the processor has such counters."""
    zones = _packages(root)
    if not zones:
        return None
    problems = [denied(path, REMEDY % path) for path in (_counter(zone) for zone in zones)]
    return Found(next((problem for problem in problems if problem), ""))


class Package:
    """A counter that goes on where the processor's wraps.

    Args:
        zone: Its folder.
    """

    def __init__(self, zone: str) -> None:
        self._file = SensorFile(_counter(zone), 1e-6, REMEDY % _counter(zone))
        self._range_uj = read_int(os.path.join(zone, "max_energy_range_uj")) or 0
        self._last_uj = self._file.read_int()
        self._last_ns = now_ns()
        self._total_uj = 0

    def energy_j(self) -> float:
        """Energy since it was opened [J].

        Raises:
            Failure: ``meter`` if the counter was reset.
        """
        now_uj, at_ns = self._file.read_int(), now_ns()
        rise_uj = now_uj - self._last_uj
        if rise_uj < 0:
            rise_uj += self._range_uj
        # At least what one step of the counter may bring at once.
        most_uj = GREATEST_W * ((at_ns - self._last_ns) / 1e3 + 1e6 * STEP_S)
        if not 0 <= rise_uj <= most_uj:
            message = "%s was reset: it went from %d to %d uJ" % (self._file.path, self._last_uj, now_uj)
            raise Failure("meter", message + "; was the machine suspended, or its driver loaded again?")
        self._last_uj, self._last_ns = now_uj, at_ns
        self._total_uj += rise_uj
        return self._total_uj / 1e6

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Rapl:
    """All packages of the machine.

    Args:
        zones: Their folders.
    """

    def __init__(self, zones: List[str]) -> None:
        self._packages = [Package(zone) for zone in zones]
        names = [read_text(os.path.join(zone, "name")) or "" for zone in zones]
        self.facts = Facts(
            source="rapl: " + " + ".join(names),
            coverage="package",
            period_s=PERIOD_S,
            channels=tuple(names),
            total=tuple(range(len(names))),
            kind=COUNTER,
            gain=GAIN,
            leaves_out="memory, disk, voltage regulators and power supply",
        )

    def read(self) -> List[Sample]:
        """Energy of every package since it was opened [J]."""
        before_ns = now_ns()
        energies = tuple(package.energy_j() for package in self._packages)
        return [((before_ns + now_ns()) // 2, energies)]

    def close(self) -> None:
        """Closes the files."""
        for package in self._packages:
            package.close()


def open_meter(root: str, options: Dict[str, Any]) -> Rapl:
    """The counters of this machine.

    Raises:
        Failure: ``meter`` if there are none, or they may not be read.
    """
    zones = _packages(root)
    if not zones:
        raise Failure(
            "meter", "no RAPL package under /sys/class/powercap: not an x86 machine, or a virtual one"
        )
    return Rapl(zones)


def _counter(zone: str) -> str:
    return os.path.join(zone, "energy_uj")


def _packages(root: str) -> List[str]:
    """Zones of whole packages; parts of one are called ``intel-rapl:0:0``."""
    zones = paths(root, "sys/class/powercap/intel-rapl:*")
    return [z for z in zones if (read_text(os.path.join(z, "name")) or "").startswith("package")]
