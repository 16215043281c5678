"""What an agent may say, and what is made of it.  Nothing a board sends is used before it went through here.

Shapes and types are checked against the annotations below, ranges in ``__post_init__``; text is cut and
freed of control characters, since it ends on a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from results.codec import from_json
from results.errors import (
    BoardDiskFull,
    BoardError,
    BoardwiseError,
    CandidateError,
    ConfigError,
    ConnectionLost,
    MeterError,
    OutOfMemory,
    PreflightError,
    ProtocolError,
    RuntimeMissing,
    RuntimeRefused,
    SessionCrashed,
    SessionTimeout,
    StoreError,
)
from results.printable import printable
from results.records import Conditions

T = TypeVar("T")

LONGEST_TEXT = 2000
LONGEST_S = 1e7
MOST = 10**15

BOARD_FAILURES: dict[str, type[BoardError]] = {
    "artifact_missing": PreflightError,
    "bad_request": ProtocolError,
    "disk_error": PreflightError,
    "disk_full": BoardDiskFull,
    "hash_mismatch": ProtocolError,
    "lost": ConnectionLost,
    "meter": MeterError,
    "runtime_missing": RuntimeMissing,
}
CANDIDATE_FAILURES: dict[str, type[CandidateError]] = {
    "cancelled": SessionTimeout,
    "crashed": SessionCrashed,
    "out_of_memory": OutOfMemory,
    "refused": RuntimeRefused,
}


@dataclass(frozen=True)
class Hello:
    """An agent's first words.

    Attributes:
        agent: Hash of its archive.
        python: Version of the Python that runs it.
        machine: Instruction set, such as ``aarch64``.
        boot_id: Changes with every start of the machine; equal to this host's where it is this host.
        pid: Its process number there.
    """

    agent: str
    python: str
    machine: str
    boot_id: str
    pid: int

    def __post_init__(self) -> None:
        _within(1, MOST, pid=self.pid)


@dataclass(frozen=True)
class BoardFacts:
    """What a board is.

    Attributes:
        model: Board model as the firmware calls it.
        machine: Instruction set, such as ``aarch64``.
        unit: Hash of the serial number or machine id: tells boards of one model apart.
        kernel: Kernel release.
        os: Name and version of the distribution.
        libc: C library and its version.
        python: Version of the Python that runs the agent.
        cpus: CPUs that the login may use.
        clusters: ``(greatest clock [Hz] or 0, CPU numbers)`` per kind of CPU, the fastest first.
        memory_bytes: Memory of the board.
        governor: Frequency governor of the fastest CPUs, or ``unknown``.
        runtimes: Version per runtime that is there; the package in brackets where it is called otherwise.
        meters: Power meters of its own that can be read, the one to use first.
        meter_problems: Those that it has and that cannot be read, with what mends it.
        boot_id: See :class:`Hello`.
        disk_free_bytes: Free in the agent's directory.
        settings: What else decides how fast it is: power mode, turbo, locked clocks.
        emulated: Profile, emulator and clock of an emulated board; empty on a physical one.
    """

    model: str
    machine: str
    unit: str
    kernel: str
    os: str
    libc: str
    python: str
    cpus: int
    clusters: tuple[tuple[int, tuple[int, ...]], ...]
    memory_bytes: int
    governor: str
    runtimes: Mapping[str, str]
    meters: tuple[str, ...]
    boot_id: str
    disk_free_bytes: int
    emulated: str = ""
    meter_problems: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _within(1, 1 << 16, cpus=self.cpus)
        _within(0, MOST, memory_bytes=self.memory_bytes, disk_free_bytes=self.disk_free_bytes)
        for max_hz, cpus in self.clusters:
            _within(0, MOST, max_hz=max_hz)
            _within(0, 1 << 16, **{f"cpu {cpu}": cpu for cpu in cpus})


@dataclass(frozen=True)
class LoadedRuntime:
    """A runtime that an agent has loaded.

    Attributes:
        package: Python package that carries it.
        version: Its version.
        provisioned: Whether Boardwise brought it, rather than the board's own Python having it.
    """

    package: str
    version: str
    provisioned: bool


@dataclass(frozen=True)
class LoadedFile:
    """A session has loaded its file and run it once; times by the board's clock.

    Attributes:
        elapsed_s: Since the agent heard of it.
        cold_s: Of the first run.
    """

    elapsed_s: float
    cold_s: float

    def __post_init__(self) -> None:
        _within(0, LONGEST_S, elapsed_s=self.elapsed_s, cold_s=self.cold_s)


@dataclass(frozen=True)
class InputTensor:
    """An input that a file was run with: random values of this type and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _within(0, MOST, **{f"size {i}": size for i, size in enumerate(self.shape)})


@dataclass(frozen=True)
class Measured:
    """What a session measured; see ``devices/agent/session.py``."""

    load_s: float
    cold_s: float
    warmup_runs: int
    warmup_s: float
    runs_per_sample: int
    samples_ns: Any
    peak_memory_bytes: int | None
    conditions: Conditions
    inputs: tuple[InputTensor, ...]
    provider: str
    threads: int
    cpus: tuple[int, ...]

    def __post_init__(self) -> None:
        _within(0, LONGEST_S, load_s=self.load_s, cold_s=self.cold_s, warmup_s=self.warmup_s)
        _within(1, MOST, warmup_runs=self.warmup_runs, runs_per_sample=self.runs_per_sample)
        # Checked here, since there may be thousands: a tuple of ints of at least one.
        if not isinstance(self.samples_ns, list) or not all(type(ns) is int for ns in self.samples_ns):
            raise ValueError("samples_ns is no array of whole numbers")
        if not self.samples_ns:
            raise ValueError("no timed runs")
        object.__setattr__(self, "samples_ns", tuple(self.samples_ns))
        _within(1, LONGEST_S * 1e9, shortest_ns=min(self.samples_ns), longest_ns=max(self.samples_ns))
        _within(1, MOST, peak_memory_bytes=self.peak_memory_bytes)
        _within(1, 1 << 16, threads=self.threads)
        _within(0, 1 << 16, **{f"cpu {cpu}": cpu for cpu in self.cpus})
        _check_conditions(self.conditions)


@dataclass(frozen=True)
class OutputTensor:
    """An array in the payload of an answer."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Answered:
    """Outputs for given inputs."""

    arrays: tuple[OutputTensor, ...]


@dataclass(frozen=True)
class MissingFiles:
    """Files that were asked about and are not on the board."""

    missing: tuple[str, ...]


@dataclass(frozen=True)
class Nothing:
    """The reply to a request that only has to be done."""


@dataclass(frozen=True)
class Refusal:
    """Why a request was not done."""

    kind: str
    message: str

    def error(self, device: str, artifact: str | None) -> BoardwiseError:
        """The error to raise.

        Args:
            device: Name of the board.
            artifact: File that the request was about; None where it was about none, so that no failure
                may be a candidate's.
        """
        if self.kind == "bad_option":
            return ConfigError(f"{device}: {self.message}")
        if self.kind == "runtime_missing":
            return RuntimeMissing(device, f"{self.message}; `boardwise devices setup {device}` brings it")
        if artifact is not None and self.kind in CANDIDATE_FAILURES:
            return CANDIDATE_FAILURES[self.kind](artifact, self.message)
        kind = BOARD_FAILURES.get(self.kind)
        if kind is None:
            return ProtocolError(device, f"the agent failed in an unknown way, {self.kind!r}: {self.message}")
        return kind(device, self.message)


def read(kind: type[T], data: Any, device: str) -> T:
    """A reply, validated.

    Raises:
        ProtocolError: If it is not what ``kind`` says; names the field.
    """
    try:
        return from_json(kind, _clean(data))
    except (StoreError, ValueError, OverflowError) as error:
        raise ProtocolError(device, f"the agent sent what it may not send: {error}") from error


def clipped(text: str) -> str:
    """Text from a board without control characters and not too long."""
    return printable(text[-LONGEST_TEXT:])


def _clean(data: Any) -> Any:
    if isinstance(data, str):
        return clipped(data)
    if isinstance(data, dict):
        return {clipped(key): _clean(value) for key, value in data.items()}
    # Long arrays are of numbers, which need no cleaning.
    if isinstance(data, list) and data and not isinstance(data[0], int | float):
        return [_clean(value) for value in data]
    return data


def _within(low: float, high: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name} is {value!s:.40}, not between {low:g} and {high:g}")


def _check_conditions(conditions: Conditions) -> None:
    _within(-100, 300, before_c=conditions.temperature_before_c, after_c=conditions.temperature_after_c)
    _within(0, 1e12, before_hz=conditions.clock_before_hz, after_hz=conditions.clock_after_hz)
    _within(0, 1, cpu_pressure=conditions.cpu_pressure, clock_low_share=conditions.clock_low_share)
    _within(
        0,
        MOST,
        load_average=conditions.load_average,
        others_cpus=conditions.others_cpus,
        throttle_events=conditions.throttle_events,
        involuntary_switches=conditions.involuntary_switches,
        major_faults=conditions.major_faults,
        swapped_pages=conditions.swapped_pages,
    )
