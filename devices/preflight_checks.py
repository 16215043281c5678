"""What a preflight looks at, in order, each with what is wanted and the remedy.

Thresholds of load and pressure: other work moves a median by more than the intervals we promise, so a
board counts as busy above a load of 0.2 per CPU + 0.2, or when tasks wait for a CPU for more than 1 % of
the time.  Neither refuses a board: every session is judged by itself later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from devices.agent_replies import BoardFacts
from devices.board_models import BoardModel
from devices.device import DeviceEntry
from devices.interpreter import LEAST_PYTHON, Interpreter
from results.records import Conditions

LEAST_DISK_BYTES = 200 << 20
"""Room for an unpacked runtime (60-90 MB) and a cache of artifacts."""

LEAST_MEMORY_BYTES = 160 << 20
"""A runtime takes 35-46 MB after its import; twice (fork server and session), and a small model."""

MARGIN_C = 10.0
"""How far below its soft limit a board should be before it is measured."""

CLOCK_LIMIT_S = 300.0
BUSY_PRESSURE = 0.01

Severity = Literal["refused", "warning"]
State = Literal["ok", "warning", "refused", "unknown"]
Finding = tuple[str, bool | None] | tuple[str, bool | None, str]
"""What was found, and whether it is as wanted; None where the board does not tell.  A third text is a remedy
of its own for what was found."""


@dataclass(frozen=True)
class MeterLook:
    """What came of trying to read the power meter of a board.

    Attributes:
        found: What it is and reads, or why it does not.
        readable: Whether it gives values that a plateau can use; None where there is no meter.
        remedy: What to do where it does not.
    """

    found: str
    readable: bool | None = None
    remedy: str = ""


@dataclass(frozen=True)
class Examined:
    """Everything the checks look at; what could not be asked is None.

    Attributes:
        entry: The device.
        board: Its board model.
        interpreter: Its Python.
        clock_ahead_s: How far its wall clock is ahead of the host's.
        available_bytes: Memory that programs could still take.
        holder: Who else measures there now, or empty.
        facts: What the board is, by the agent.
        ran: Conditions of a short session per runtime that works, or the reason why one does not.
        meter: What its power meter gave; None where nobody tried.
    """

    entry: DeviceEntry
    board: BoardModel
    interpreter: Interpreter
    clock_ahead_s: float
    available_bytes: int | None
    holder: str = ""
    facts: BoardFacts | None = None
    ran: Mapping[str, Conditions | str] = field(default_factory=dict)
    meter: MeterLook | None = None

    @property
    def conditions(self) -> list[Conditions]:
        """Conditions of the sessions that ran."""
        return [c for c in self.ran.values() if isinstance(c, Conditions)]


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Attributes:
        name: What.
        wanted: What is wanted.
        remedy: What to do if it is not so; ``NAME`` stands for the device's name.
        severity: ``refused`` if nothing can be measured then, ``warning`` if figures would be worse.
        look: The look itself.
    """

    name: str
    wanted: str
    remedy: str
    severity: Severity
    look: Callable[[Examined], Finding]


@dataclass(frozen=True)
class CheckResult:
    """What a check found; ``remedy`` is empty where nothing needs to be done."""

    name: str
    state: State
    found: str
    wanted: str
    remedy: str


def _python(board: Examined) -> Finding:
    python = board.interpreter
    found = f"{python.implementation} {'.'.join(map(str, python.version))}"
    return found, python.implementation == "CPython" and python.version[:2] >= LEAST_PYTHON


def _libc(board: Examined) -> Finding:
    glibc = board.interpreter.glibc
    return ("another C library", False) if glibc is None else ("glibc {}.{}".format(*glibc), True)


def _lock(board: Examined) -> Finding:
    return (board.holder, False) if board.holder else ("free", True)


def _unit(board: Examined) -> Finding:
    if board.facts is None or board.entry.seen is None:
        return "not known", None
    same = board.facts.unit == board.entry.seen.unit
    return ("the same as when it was added" if same else f"{board.facts.unit}, another one"), same


def _disk(board: Examined) -> Finding:
    if board.facts is None:
        return "not asked", None
    free_bytes = board.facts.disk_free_bytes
    return f"{free_bytes / 1e6:.0f} MB free", free_bytes >= LEAST_DISK_BYTES


def _memory(board: Examined) -> Finding:
    if board.available_bytes is None:
        return "the kernel does not tell", None
    return f"{board.available_bytes / 1e6:.0f} MB available", board.available_bytes >= LEAST_MEMORY_BYTES


def _runtimes(board: Examined) -> Finding:
    if board.facts is None:
        return "not asked", None
    runtimes = board.facts.runtimes
    return ", ".join(f"{name} {version}" for name, version in runtimes.items()) or "none", bool(runtimes)


def _works(board: Examined) -> Finding:
    if not board.ran:
        return "nothing ran", None
    failed = [f"{runtime}: {why}" for runtime, why in board.ran.items() if isinstance(why, str)]
    return "; ".join(failed) or f"{' and '.join(board.ran)} ran it", not failed


def _governor(board: Examined) -> Finding:
    if board.facts is None or board.facts.governor == "unknown":
        return "the kernel does not tell", None
    return board.facts.governor, board.facts.governor == "performance"


def _load(board: Examined) -> Finding:
    loads = [c.load_average for c in board.conditions if c.load_average is not None]
    if not loads or board.facts is None:
        return "not measured", None
    return f"{min(loads):.2f}", min(loads) <= 0.2 * board.facts.cpus + 0.2


def _pressure(board: Examined) -> Finding:
    shares = [c.cpu_pressure for c in board.conditions if c.cpu_pressure is not None]
    return (f"{100 * min(shares):.1f} %", min(shares) <= BUSY_PRESSURE) if shares else ("not measured", None)


def _swapping(board: Examined) -> Finding:
    pages = [c.swapped_pages for c in board.conditions if c.swapped_pages is not None]
    if not pages:
        return "the kernel does not tell", None
    return (f"{sum(pages)} pages during the test" if sum(pages) else "none"), not sum(pages)


def _temperature(board: Examined) -> Finding:
    hottest = [c.temperature_after_c for c in board.conditions if c.temperature_after_c is not None]
    if not hottest:
        return "the board does not tell", None
    limit_c = board.board.soft_limit_c
    if limit_c is None:
        return f"{max(hottest):.0f} °C; the limit of this board is not known", None
    return f"{max(hottest):.0f} °C; it slows down at {limit_c:.0f} °C", max(hottest) <= limit_c - MARGIN_C


def _throttled(board: Examined) -> Finding:
    events = [c.throttle_events for c in board.conditions if c.throttle_events is not None]
    if not events:
        return "the board does not tell", None
    return ("not throttled" if not sum(events) else f"{sum(events)} signs of throttling"), not sum(events)


def _meter(board: Examined) -> Finding:
    if board.meter is None:
        return "not tried", None
    return board.meter.found, board.meter.readable, board.meter.remedy


def _clock(board: Examined) -> Finding:
    if board.facts is not None and board.facts.emulated:
        return "not compared: an emulated board's clock stands still while it is paused", None
    ahead_s = board.clock_ahead_s
    word = "ahead of" if ahead_s > 0 else "behind"
    return f"{abs(ahead_s):.0f} s {word} this host", abs(ahead_s) <= CLOCK_LIMIT_S


_NEWER_SYSTEM = "use a newer system image, or name another Python on the board in the lab file (python = ...)"
_COOL = "give it a heat sink or a fan, and a power supply that holds its voltage"
CHECKS = (
    Check("Python", "CPython >= 3.8", _NEWER_SYSTEM, "refused", _python),
    Check("C library", "glibc", "musl is not supported: use an image with glibc", "refused", _libc),
    Check("lock", "nobody else measures there", "wait for them, or ask them to stop", "refused", _lock),
    Check(
        "unit",
        "the one that was added",
        "figures of two units must not be mixed: add this one under a name of its own (devices add)",
        "refused",
        _unit,
    ),
    Check(
        "disk",
        f">= {LEAST_DISK_BYTES / 1e6:.0f} MB free",
        "make room, or name another directory in the lab file",
        "refused",
        _disk,
    ),
    Check(
        "memory",
        f">= {LEAST_MEMORY_BYTES / 1e6:.0f} MB available",
        "stop other programs, the desktop first",
        "warning",
        _memory,
    ),
    Check("runtimes", "at least one", "bring one: boardwise devices setup NAME", "refused", _runtimes),
    Check(
        "smallest model",
        "runs on each runtime",
        "bring another version: boardwise devices setup NAME --runtime RUNTIME --version VERSION",
        "refused",
        _works,
    ),
    Check(
        "governor",
        "performance",
        "on the board: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        "warning",
        _governor,
    ),
    Check("load", "<= 0.2 per CPU + 0.2", "stop what else runs there", "warning", _load),
    Check("CPU pressure", "<= 1 %", "stop what else runs there", "warning", _pressure),
    Check("swapping", "none", "stop other programs, the desktop first", "warning", _swapping),
    Check("temperature", f">= {MARGIN_C:.0f} °C below the limit", _COOL, "warning", _temperature),
    Check("throttling", "none", _COOL, "warning", _throttled),
    Check(
        "clock",
        f"within {CLOCK_LIMIT_S:.0f} s of this host's",
        "let it set its clock (timedatectl set-ntp true)",
        "warning",
        _clock,
    ),
    Check(
        "power meter",
        "gives values, fast enough for a plateau",
        "see docs/energy.md; latency is measured all the same",
        "warning",
        _meter,
    ),
)
"""In the order in which they are worth mending: what keeps the others from being asked comes first."""
