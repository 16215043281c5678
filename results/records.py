"""The vocabulary: every value that is stored, told to a strategy, or passed between packages.

All types are frozen dataclasses of plain values, so that they can be stored as JSON
(:mod:`results.codec`), compared and hashed.  Nothing here computes statistics: raw
samples are what is kept, :mod:`results.statistics` is what reads them.  Standard library only.
Units are SI and stand in the name: ``_s _j _w _hz _bytes _c``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from results.codec import digest, to_json
from results.errors import ConfigError, StoreError
from results.power import ClockFit, Plateau, PowerTrace

Option = str | int | float | bool  # value of an option of a target, and of a decision
LATEST_S = 253_402_300_799.0  # the last second of the year 9999: as far as calendars go
FORMATS = {"onnxruntime": "onnx", "tflite": "tflite"}  # what each runtime runs


# --------------------------------------------------------------------------- what is searched


@dataclass(frozen=True)
class Architecture:
    """One point of a search space, in canonical form: a decision that does not apply is 0.

    Attributes:
        space: Fingerprint of the space's name and decisions; choices mean nothing without it.
        choices: Index of the option taken, per decision, shape ``(decisions,)``.
    """

    space: str
    choices: tuple[int, ...]


@dataclass(frozen=True)
class Fidelity:
    """How much training a trial gets.  Of training only: the board always gets the full network.

    Attributes:
        epochs: Passes over the (sub)set; 0 to score the weights that it begins with (a supernet's).
        subset: Share of the training data, in (0, 1].
        width: Multiplier of the channel numbers while training, in (0, 1].
        resolution: Edge of the images in pixels while training; None for the data's own.
    """

    epochs: int
    subset: float = 1.0
    width: float = 1.0
    resolution: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0 < self.subset <= 1 or not 0 < self.width <= 1:
            raise ConfigError(f"fidelity needs epochs >= 0 and 0 < subset, width <= 1, got {self}")


@dataclass(frozen=True)
class Proposal:
    """What a strategy asks for.

    Attributes:
        architecture: What to build.
        fidelity: How far to train it.
        weights_from: Trial whose weights are taken over, ``"supernet"``, or None for fresh ones.
        note: Whatever the strategy needs back when the trial is told; JSON values only.
        screen_only: Whether it is to be measured and not trained: a look at what it costs, which helps to
            choose what is worth a training.
    """

    architecture: Architecture
    fidelity: Fidelity
    weights_from: int | str | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    screen_only: bool = False


@dataclass(frozen=True)
class Trial:
    """A proposal with its number; trials are numbered from 0 in the order of asking."""

    number: int
    proposal: Proposal


# --------------------------------------------------------------------------- where it is measured


_PART_OF_A_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def _in_names(value: Option) -> str:
    """An option's value as it can stand in the name of a file."""
    if not isinstance(value, str):
        return str(value)
    return re.sub(r"[^\w.+]+", "-", value.rstrip("/").rpartition("/")[2]).strip("-")


@dataclass(frozen=True)
class Target:
    """One physical unit with one way of running files on it.  Limits, fronts and CSVs speak of these.

    Attributes:
        device: Name in the lab file.
        runtime: ``onnxruntime`` or ``tflite``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        options: Runtime options as sorted pairs, such as ``(("threads", 1),)``.
    """

    device: str
    runtime: str
    precision: str = "fp32"
    options: tuple[tuple[str, Option], ...] = (("threads", 1),)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(sorted((k, v) for k, v in self.options)))
        for part in (self.device, self.runtime, self.precision, *(key for key, _ in self.options)):
            if not _PART_OF_A_NAME.fullmatch(part):
                raise ConfigError(
                    f"target {self.name!r}: {part!r} becomes part of file names;"
                    " use letters, digits, '_', '-' and '.'"
                )
        if self.runtime not in FORMATS:
            raise ConfigError(f"unknown runtime {self.runtime!r}; known: {', '.join(FORMATS)}")

    @property
    def name(self) -> str:
        """Name in limits and file names, such as ``pi5-tflite-fp32-threads1``.

        Of a path its last part stands there, of a release ``onnxruntime-1.23.2``.
        """
        tail = "".join(f"-{key}{_in_names(value)}" for key, value in self.options)
        return f"{self.device}-{self.runtime}-{self.precision}{tail}"

    @property
    def file_format(self) -> str:
        """``onnx`` or ``tflite``."""
        return FORMATS[self.runtime]


@dataclass(frozen=True)
class Plan:
    """How much is measured.  Levels: screen < search < confirm < nightly.

    Attributes:
        name: Level.
        sessions: Least and greatest number of sessions; more are added until ``half_width`` holds.
        agents: Freshly started agents over which the sessions are spread.
        half_width: Relative half width of the 95 % interval of the median at which to stop.
        session_s: Duration of the timed runs of one session [s]; at least 1 run, see ``min_runs``.
        warmup_s: Duration of the warm-up of one session [s].
        min_runs: Least number of timed runs in a session.
        max_runs: Greatest number of timed runs in a session.
        load_limit_s: Longest time a session may take to load and run once [s].
        energy: Whether energy is measured.
        plateau_s: Least and greatest time of runs for it [s]; ``idle_s``: least time idle before and after.
        spread: Known spread between sessions of the target: standard deviation of the log of session
            medians; 0 where nothing is known yet.
        spread_sessions: Degrees of freedom behind ``spread``.
        agent_spread: Known spread between agents of the target, on top of ``spread``: what all sessions of
            one agent share.
        agent_spread_agents: Degrees of freedom behind ``agent_spread``.
        retries: Sessions that may be thrown away and taken again because of the board's state.
        strict: Whether a session under noisy conditions is thrown away as well, not an invalid one only.
        cooldown_s: Longest wait before a session for the board to be as cool as it was at first [s].
        start_below_c: Temperature below which a session may start; None for any.
    """

    name: str
    sessions: tuple[int, int] = (3, 6)
    agents: int = 1
    half_width: float = 0.02
    session_s: float = 0.1
    warmup_s: float = 0.05
    min_runs: int = 20
    max_runs: int = 2000
    load_limit_s: float = 60.0
    energy: bool = False
    spread: float = 0.0
    spread_sessions: int = 0
    agent_spread: float = 0.0
    agent_spread_agents: int = 0
    retries: int = 3
    strict: bool = False
    cooldown_s: float = 0.0
    start_below_c: float | None = None
    plateau_s: tuple[float, float] = (10.0, 120.0)
    idle_s: float = 10.0

    def __post_init__(self) -> None:
        low, high = self.sessions
        if not 1 <= low <= high or not 1 <= self.agents <= low or not 1 <= self.min_runs <= self.max_runs:
            raise ConfigError(
                f"plan {self.name!r} needs 1 <= agents <= sessions and 1 <= min_runs <= max_runs, got "
                f"{self.agents} agents, {low} to {high} sessions, {self.min_runs} to {self.max_runs} runs"
            )


UNTRAINED = "untrained"
"""In place of the hash of the weights: of files that were measured before the training."""


@dataclass(frozen=True)
class Artifact:
    """A model file.

    Attributes:
        sha256: Hash of the file.
        graph: Hash of the structure without the weights; equals ``sha256`` where they cannot be told apart.
        weights: Hash of the weights; empty where they cannot be told apart, :data:`UNTRAINED` for a screen.
        file_format: ``onnx`` or ``tflite``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        size_bytes: Size of the file.
    """

    sha256: str
    graph: str
    weights: str
    file_format: str
    precision: str
    size_bytes: int


# --------------------------------------------------------------------------- what was measured


@dataclass(frozen=True)
class Conditions:
    """State of a board around one session.  None where the board does not tell.

    Attributes:
        temperature_before_c: Hottest SoC zone before the timed runs.
        temperature_after_c: ... and after.
        clock_before_hz: Current clock of the fastest CPU used, before.
        clock_after_hz: ... and after.
        throttle_events: Number of throttle indications that appeared during the session.
        load_average: One-minute load average before the session.
        cpu_pressure: Share of the session in which some task waited for a CPU (PSI), 0..1.
        involuntary_switches: Involuntary context switches of the session's process.
        major_faults: Page faults that went to disk.
        swapped_pages: Pages swapped in and out on the whole board.
        clock_low_share: Share of the session that the CPUs used spent below their greatest clock, 0..1.
        others_cpus: CPUs that other processes kept busy during the session, on average.
    """

    temperature_before_c: float | None = None
    temperature_after_c: float | None = None
    clock_before_hz: float | None = None
    clock_after_hz: float | None = None
    throttle_events: int | None = None
    load_average: float | None = None
    cpu_pressure: float | None = None
    involuntary_switches: int | None = None
    major_faults: int | None = None
    swapped_pages: int | None = None
    clock_low_share: float | None = None
    others_cpus: float | None = None


@dataclass(frozen=True)
class Session:
    """One fresh process on the board that loaded a file and ran it: raw.

    Attributes:
        role: ``model``, or ``reference`` for the fixed network measured beside it.
        agent: Number of the freshly started agent it belongs to, from 0.
        load_s: Time to load the file.
        cold_s: Time of the very first run.
        warmup_runs: Runs thrown away after the first.
        durations_s: Timed runs in order, shape ``(samples,)``.
        peak_memory_bytes: VmHWM of the process (host memory only), or None.
        conditions: State of the board around it.
        started_at: Host's wall clock, seconds since the epoch.
        runs_per_sample: Number of runs that each of ``durations_s`` is the mean of; more than 1 where a
            run is too short for the clock.
    """

    role: Literal["model", "reference"]
    agent: int
    load_s: float
    cold_s: float
    warmup_runs: int
    durations_s: tuple[float, ...]
    peak_memory_bytes: int | None
    conditions: Conditions
    started_at: float
    runs_per_sample: int = 1

    def __post_init__(self) -> None:
        if not self.durations_s or not all(math.isfinite(d) and d > 0 for d in self.durations_s):
            raise StoreError("a session needs timed runs, all finite and positive")


@dataclass(frozen=True)
class Environment:
    """Everything that must be equal for two measurements to be comparable.

    Attributes:
        facts: Sorted pairs: board model, unit, kernel, OS, Python, runtime and its version, governor,
            emulation, agent ...
    """

    facts: tuple[tuple[str, str], ...]

    @property
    def fingerprint(self) -> str:
        """Hash of the facts; measurements share a front only where it is equal per device."""
        return digest(to_json(self))

    def get(self, key: str, default: str = "unknown") -> str:
        """Value of a fact."""
        return dict(self.facts).get(key, default)


@dataclass(frozen=True)
class RanOn:
    """What really ran a file, as the runtime itself says.

    Attributes:
        runtime: Runtime and package, such as ``tflite (ai-edge-litert)``.
        version: Its version.
        threads: Number of threads that it was given.
        provider: Execution providers or delegates, in order.
        cpus: CPUs that the process was allowed on.
        nodes: Number of nodes of the loaded graph per provider or delegate; empty where it was not asked.
        sha256: Hash of the file as the board computed it; empty where it was not asked.
    """

    runtime: str
    version: str
    threads: int
    provider: str
    cpus: tuple[int, ...] = ()
    nodes: tuple[tuple[str, int], ...] = ()
    sha256: str = ""


Origin = Literal["measured", "modelled", "replayed"]


@dataclass(frozen=True)
class Measurement:
    """All sessions of one artifact on one target by one plan.  Needs no trial.

    Attributes:
        artifact: What ran.
        target: Where and how.
        plan: How much.
        environment: Conditions of comparability.
        sessions: Raw sessions, of the model and of the reference.
        ran_on: What really ran it.
        origin: ``measured`` on the device named, ``replayed`` from stored figures, or ``modelled``.
        traces: Power.
        clocks: How the traces' and the board's clocks map to the host's; none where all are one machine.
        plateaus: What ran while power was measured.
        energy_note: Why there is no energy, where it was asked for.
        dropped: Reasons of sessions that were thrown away and measured again.
    """

    artifact: Artifact
    target: Target
    plan: Plan
    environment: Environment
    sessions: tuple[Session, ...]
    ran_on: RanOn
    origin: Origin = "measured"
    traces: tuple[PowerTrace, ...] = ()
    clocks: tuple[ClockFit, ...] = ()
    dropped: tuple[str, ...] = ()
    plateaus: tuple[Plateau, ...] = ()
    energy_note: str = ""


@dataclass(frozen=True)
class Score:
    """What evaluating a trained network on one split gave: raw.

    Attributes:
        value: Value of the task's metric, such as accuracy in 0..1.
        examples: Number of independent examples behind it.
        proportion: Whether ``value`` is a share of ``examples`` (then it has a Wilson interval).
        resampled: Value on each bootstrap sample of the examples, for a metric that is no share.
        left_out: Value without each part of the examples in turn (jackknife), for the same.
        no_interval: Why there are neither, where there are none.
    """

    value: float
    examples: int
    proportion: bool = True
    resampled: tuple[float, ...] = ()
    left_out: tuple[float, ...] = ()
    no_interval: str = ""

    def of_value(self, value: float) -> Score:
        """Another value of the same examples; a metric that is no share has no interval there."""
        return Score(value, self.examples, self.proportion)


# --------------------------------------------------------------------------- what is wanted


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; ``low <= value <= high``, infinite where it has no interval."""

    low: float
    value: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"an interval needs low <= value <= high, got {self}")

    @property
    def is_known(self) -> bool:
        """Whether there is an interval around the value; without one nothing is certain."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Metric:
    """A figure of an evaluation that is an objective or has a limit.

    Attributes:
        name: ``accuracy`` (the task's metric), ``latency_p50``, ``latency_p90``, ``latency_p99``,
            ``energy``, ``peak_memory``, ``size``, ``macs`` or ``parameters``; SI units.
        targets: Names of targets, or of devices whose target each trial chooses; empty where it has none.
        scales: One per target: the metric is the worst of value / scale; empty means 1.
        maximise: Whether more is better.
    """

    name: str
    targets: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    maximise: bool = False

    def __post_init__(self) -> None:
        if (self.scales and len(self.scales) != len(self.targets)) or not all(s > 0 for s in self.scales):
            raise ConfigError(f"metric {self.name!r} needs one scale > 0 per target, got {self}")


@dataclass(frozen=True)
class Limit:
    """A hard limit: ``metric <= upper``.

    Attributes:
        metric: What is limited; exactly one target where it belongs to a target.
        upper: Greatest value allowed, SI.
        certainty: Confidence of the interval by which it is decided.
    """

    metric: Metric
    upper: float
    certainty: float = 0.95


@dataclass(frozen=True)
class Problem:
    """What the search is after.

    Attributes:
        objectives: In order; the first is the task's metric, called ``accuracy`` here whatever it is.
        limits: Hard limits.
        metric: What the task calls its metric; any finite number, not only a share.
    """

    objectives: tuple[Metric, ...]
    limits: tuple[Limit, ...] = ()
    metric: str = "accuracy"

    @property
    def maximise(self) -> bool:
        """Whether more of the task's metric is better."""
        return self.objectives[0].maximise

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which values of the task's metric are better, in a word."""
        return "higher" if self.maximise else "lower"


State = Literal["complete", "screened", "infeasible", "failed", "unmeasured"]


@dataclass(frozen=True)
class Evaluation:
    """Everything known about a trial in its final state; this is what a strategy is told.

    Attributes:
        trial: The trial.
        state: ``complete``; ``screened`` (measured and, as the proposal was ``screen_only``, not trained);
            ``infeasible`` (a limit is certainly broken; not trained); ``failed``
            (the candidate's fault, see ``error``); ``unmeasured`` (the board's fault).
        measurements: Per target name.
        accuracy: Score on the validation split per precision; the only one a strategy sees.
        network: ``macs``, ``parameters``, ``activation_bytes`` and ``size_bytes_<format>``.
        learning_curve: Validation score after each epoch, shape ``(epochs,)``.
        checkpoint: Hash of the trained weights in the store, or None.
        training_s: CPU time of the training.
        error: Why it failed.
        stopped: Whether the training was ended as hopeless; accuracy is that of the epoch then, which may not
            be ranked with those of whole trainings.
    """

    trial: Trial
    state: State
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    accuracy: Mapping[str, Score] = field(default_factory=dict)
    network: Mapping[str, float] = field(default_factory=dict)
    learning_curve: tuple[float, ...] = ()
    checkpoint: str | None = None
    training_s: float = 0.0
    error: str | None = None
    stopped: bool = False
