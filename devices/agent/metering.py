"""Power meters: what a plug-in in ``meters/`` has to offer, and which of them this machine has.

A plug-in is a file; its name is the meter's name in the lab file.  It has

* ``OPTIONS``: what may be said about it, as for a runtime (:mod:`.options`);
* ``open_meter(root, options)``: a meter, ready to be read;
* ``find(root)``, only where a machine has such a meter built in: None, or a :class:`Found`.

A meter has ``facts`` and two methods: ``read()`` gives the samples since the last call, and ``close()``.
Readings are stamped with the machine's raw monotonic clock, which no time server slews.
"""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import meters
from .failures import Failure

Sample = Tuple[int, Tuple[float, ...]]
"""Time [ns of :func:`now_ns`], and per channel power [W], or energy since some moment [J]."""

BUILT_IN = ("ina3221", "rpi_pmic", "rapl", "battery")
"""Meters that are read without being named in the lab file, the most telling first.  A ``hwmon`` sensor is
not among them: what it is wired to, only its owner knows."""

SAMPLES, COUNTER = "samples", "counter"


class Facts(NamedTuple):
    """What a meter is.

    ``source`` names chip and rails; ``coverage`` says what the figure includes (``module``, ``package``,
    ``rails``, ``battery`` or ``wall``) and ``leaves_out`` what it does not.  ``channels`` are read one by
    one, and those in ``total`` (indices) add up to the figure.  ``kind``: readings are ``samples`` of the
    power [W], or of a ``counter`` of the energy [J].  ``period_s`` is the time after which another value
    may come, ``time_constant_s`` that of an average inside the sensor, ``resolution_w`` the step of the
    figure (0: fine enough to ignore), ``gain`` and ``offset_w`` standard uncertainties of its factor and
    its zero.  ``least_s`` and ``least_net_w`` are the shortest run and the smallest power above idle that
    it can tell; with ``certain_period`` the period need not be learnt from the readings.
    """

    source: str
    coverage: str
    period_s: float
    channels: Tuple[str, ...] = ("total",)
    total: Tuple[int, ...] = (0,)
    kind: str = SAMPLES
    time_constant_s: float = 0.0
    resolution_w: float = 0.0
    gain: float = 0.0
    offset_w: float = 0.0
    least_s: float = 0.0
    least_net_w: float = 0.0
    leaves_out: str = ""
    certain_period: bool = False


class Found(NamedTuple):
    """A built-in meter that is there; ``problem`` says why it cannot be read and what mends that."""

    problem: str = ""


class Glitch(Exception):
    """A reading that failed and may succeed the next time."""


class Text(NamedTuple):
    """An option that is a text."""

    default: str

    def accepts(self, value: Any) -> bool:
        """Whether it may be set to ``value``."""
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a text"


class Number(NamedTuple):
    """An option that is a number within bounds."""

    default: float
    low: float
    high: float

    def accepts(self, value: Any) -> bool:
        """Whether it may be set to ``value``."""
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high
        )

    def __str__(self) -> str:
        return "a number from %g to %g" % (self.low, self.high)


def now_ns() -> int:
    """The clock that traces, plateaus and clock fits are in."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def stamped(read: Callable[[], Any]) -> Tuple[int, Any]:
    """What ``read`` gives, with the middle of the time that it took."""
    before_ns = now_ns()
    value = read()
    return (before_ns + now_ns()) // 2, value


def meter_names() -> List[str]:
    """Names of all meters that there are files for."""
    return sorted(module.name for module in pkgutil.iter_modules(meters.__path__))


def plugin(name: str) -> Any:
    """The module of a meter.

    Raises:
        Failure: ``bad_option`` if there is no such meter.
    """
    if name not in meter_names():
        message = "unknown meter %.80r; known: %s" % (name, ", ".join(meter_names()))
        raise Failure("bad_option", message)
    return importlib.import_module("." + name, meters.__name__)


def found(root: str) -> Dict[str, Found]:
    """The built-in meters of this machine, in order of preference."""
    looked = ((name, plugin(name).find(root)) for name in BUILT_IN)
    return {name: found for name, found in looked if found is not None}


def built_in(root: str) -> str:
    """The name of the meter to read where none was named.

    Raises:
        Failure: ``meter`` if there is none that can be read; says why.
    """
    there = found(root)
    for name, each in there.items():
        if not each.problem:
            return name
    problems = "; ".join("%s: %s" % (name, each.problem) for name, each in there.items())
    raise Failure("meter", problems or "the machine has no power meter of its own; name one in the lab file")


def denied(path: str, remedy: str) -> Optional[str]:
    """Why a file cannot be read, with its remedy; None if it can."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        why = "%s: %s" % (path, error.strerror)
        return "%s; %s" % (why, remedy) if error.errno in (errno.EACCES, errno.EPERM) else why
    return None


class SensorFile:
    """A small file of the kernel with a number in it, kept open.

    Args:
        path: The file.
        factor: What the number is multiplied by.
        remedy: What mends it where reading is not permitted.
    """

    def __init__(self, path: str, factor: float, remedy: str = "") -> None:
        self.path = path
        self._factor = factor
        problem = denied(path, remedy)
        if problem is not None:
            raise Failure("meter", problem)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> float:
        """The number now.

        Raises:
            Glitch: If it could not be read this time.
            Failure: ``meter`` if the sensor has gone.
        """
        return self.read_int() * self._factor

    def read_int(self) -> int:
        """The number as it stands there; errors as in :meth:`read`."""
        try:
            text = os.pread(self._descriptor, 64, 0)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENOENT):
                raise Failure("meter", "%s has gone: %s" % (self.path, error.strerror)) from error
            raise Glitch("%s: %s" % (self.path, error.strerror)) from error
        try:
            return int(text)
        except ValueError as error:
            raise Glitch("%s holds %.40r, no number" % (self.path, text)) from error

    def close(self) -> None:
        """Closes the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
