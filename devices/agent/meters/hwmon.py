"""Any power or energy sensor that the kernel's hwmon knows, such as an INA226 wired by the owner.

Which chip, and what it is wired to, only the owner knows: both are said in the lab file (``chip``,
``coverage``).  An energy counter is preferred to a power, and a power to voltage times current.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Tuple

from ..failures import Failure
from ..files import paths, read_int, read_text
from ..metering import COUNTER, SAMPLES, Facts, Number, Sample, SensorFile, Text, stamped
from ..options import Choice

OPTIONS = {
    "chip": Text(""),
    "channel": Number(1, 1, 64),
    "coverage": Choice("rails", ("rails", "module", "package", "wall")),
    "gain": Number(0.01, 0.0, 1.0),
    "resolution_w": Number(0.0, 0.0, 100.0),
}

NOT_MEASURED = ("ucsi_source_psy_", "ina3221")
"""Power that was negotiated (USB-C), and chips that have a meter of their own here."""

USUAL_PERIOD_S = 0.035
"""INA226 in its default setting."""

REMEDY = "let the login read it: sudo chmod a+r %s (until the next start)"

Kind = Tuple[str, List[Tuple[str, float]]]


class Hwmon:
    """One channel of one chip.

    Args:
        chip: Its folder.
        files: What is read: kind, and paths with the factor to SI; several are multiplied.
        options: As the lab file has them.
    """

    def __init__(self, chip: str, files: Kind, options: Dict[str, Any]) -> None:
        kind, wanted = files
        self._files = [SensorFile(path, factor, REMEDY % path) for path, factor in wanted]
        interval_ms = read_int(os.path.join(chip, "update_interval"))
        name = read_text(os.path.join(chip, "name"))
        self._read: Callable[[], float] = self._counted if kind == COUNTER else self._power_w
        self._last = 0.0
        self.facts = Facts(
            source="hwmon %s: %s" % (name, " * ".join(os.path.basename(path) for path, _ in wanted)),
            coverage=options["coverage"],
            period_s=(interval_ms or 0) / 1000.0 or USUAL_PERIOD_S,
            kind=kind,
            gain=float(options["gain"]),
            resolution_w=float(options["resolution_w"]),
        )

    def read(self) -> List[Sample]:
        """Power now [W], or energy so far [J]."""
        at_ns, value = stamped(self._read)
        return [(at_ns, (value,))]

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()

    def _power_w(self) -> float:
        product = 1.0
        for file in self._files:
            product *= file.read()
        return product

    def _counted(self) -> float:
        now = self._files[0].read()
        if now < self._last:
            raise Failure("meter", "%s was reset: it fell to %g J" % (self._files[0].path, now))
        self._last = now
        return now


def open_meter(root: str, options: Dict[str, Any]) -> Hwmon:
    """The chip that the lab file names, or the only one there is.

    Raises:
        Failure: ``meter`` if there is none of that name, or more than one.
    """
    channel = int(options["channel"])
    chips = [chip for chip in paths(root, "sys/class/hwmon/hwmon*") if _is_meter(chip)]
    usable = [(chip, files) for chip in chips for files in _files(chip, channel)[:1]]
    names = [read_text(os.path.join(chip, "name")) or "" for chip, _ in usable]
    fitting = [one for one, name in zip(usable, names) if options["chip"] in ("", name)]
    if len(fitting) != 1:
        which = "chip %r" % options["chip"] if options["chip"] else "chip"
        there = "there are: %s" % (", ".join(names) or "none")
        message = "hwmon: %d sensors of power are a %s with channel %d; name one with chip = ...; %s"
        raise Failure("meter", message % (len(fitting), which, channel, there))
    return Hwmon(*fitting[0], options)


def _is_meter(chip: str) -> bool:
    name = read_text(os.path.join(chip, "name")) or ""
    return not name.startswith(NOT_MEASURED) and "power_supply" not in os.path.realpath(chip)


def _files(chip: str, channel: int) -> List[Kind]:
    """What a chip offers, the best first: energy, power, average power, voltage and current."""
    wanted: List[Kind] = [
        (COUNTER, [("energy%d_input", 1e-6)]),
        (SAMPLES, [("power%d_input", 1e-6)]),
        (SAMPLES, [("power%d_average", 1e-6)]),
        (SAMPLES, [("in%d_input", 1e-3), ("curr%d_input", 1e-3)]),
    ]
    offered = []
    for kind, files in wanted:
        there = [(os.path.join(chip, pattern % channel), factor) for pattern, factor in files]
        if all(os.path.exists(path) for path, _ in there):
            offered.append((kind, there))
    return offered
