"""A study as its TOML file says it: validated, frozen, not yet turned into objects.

:mod:`harness.config` makes the objects; everything here is names and numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from harness.pretrain_plan import Pretraining, pretraining_of
from harness.quantities import PER_TARGET, QUANTITIES, parse_limit
from harness.quantization import METHODS, CalibrationPlan, Method
from harness.speedups import Speedups, speedups_of
from harness.study_choices import Choices, choices_of
from results.errors import ConfigError
from results.records import FORMATS, Fidelity, Limit, Metric, Plan, Problem, Target
from results.settings import Settings
from results.statistics import QUANTILES, runs_needed
from search.tasks import Task

SCREEN = Plan("screen", sessions=(1, 6), half_width=0.05, session_s=0.08, warmup_s=0.04, min_runs=20)
"""One session is enough where the known spread of the target says so; where it is not known, the interval of
one session is so wide that others follow."""

CONFIRM = Plan(
    "confirm",
    sessions=(10, 20),
    agents=5,
    half_width=0.02,
    session_s=0.25,
    warmup_s=0.1,
    min_runs=50,
    strict=True,
    cooldown_s=30.0,
)
BENCH = dataclasses.replace(CONFIRM, name="bench", session_s=0.5, warmup_s=0.2)
NIGHTLY = dataclasses.replace(
    CONFIRM,
    name="nightly",
    sessions=(16, 40),
    agents=8,
    half_width=0.01,
    session_s=0.5,
    warmup_s=0.2,
    min_runs=100,
    cooldown_s=120.0,
)
"""Eight agents rather than five: the narrower the aim, the more often a session or two more are what decides,
and an interval that stops as soon as it is narrow covers too little with few agents."""


TRIALS = 50
"""Unless the file says how many."""

IN_FLIGHT = 6
"""Trials under way at once, at the least.  Trials are told in the order of their numbers, so a long training
holds up those after it: where trainings differ by a factor of e^0.9 (one standard deviation), two trials per
worker leave 13 % idle, three 6 %.  Six are three for each of two workers."""

MOST_IN_FLIGHT = 24
"""At the most by default: a strategy is always so many trials behind, on small machines, too."""

TRIALS_PER_IN_FLIGHT = 8
"""In between an eighth of the trials is asked for before the first is told."""

WORKERS = 2
"""Training processes where this machine's cores tell nothing: on a Ray cluster and on a GPU."""

_IN_FLIGHT_PER_WORKER = 3
"""What runs go on with that were stored without a number of trials under way."""

MOST_LETTERS = 200
"""In the name of a run: it is the name of a folder, and file systems take 255 bytes."""

_RUN_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_-]{{0,{MOST_LETTERS - 1}}}")

CHECKS = ("all", "front", "none")
POOLS = ("processes", "ray")
DEVICES = ("cpu", "cuda")
ACROSS_TARGETS = ("worst", "each")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Named:
    """A plug-in or data set by name, with its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Everything that a study file says.

    Attributes:
        name: Name of the run; letters, digits, ``-`` and ``_``.
        seed: Everything random follows from it.
        trials: Number of trials to ask for.
        task: Data set or user's file.
        space: Search space.
        strategy: Search strategy.
        fidelity: Training that each trial gets.
        workers: Training processes.
        in_flight: Trials under way at once; ask n waits until trials up to n - in_flight were told.
        training_limit_s: Longest training of one trial, CPU time.
        pool: Where trainings run: in ``processes`` of this machine, or with ``ray``.
        device: What they compute with: ``cpu`` or ``cuda``.
        targets: Where it is measured.
        objectives: Names of the cost objectives beside the task's metric.
        across_targets: What a cost is where there are several targets: that of the ``worst`` of them, or of
            ``each`` as an objective of its own.
        limits: Hard limits.
        screen: Plan before training.
        confirm: Plan of the confirm stage.
        check_outputs: Whose outputs are compared on the board with this host's: those of ``all`` trained
            candidates, of the ``front`` before it is confirmed, or ``none``.
        accept_noisy: Whether fronts are confirmed on a board that is busy with other work, too.
        give_up_after_s: How long a board may be away before the run ends.
        calibration: How int8 files get their ranges.
        choices: What is decided per trial beside the network.
        pretraining: Supernet that is trained before the search; None for none.
        speedups: What makes trainings fewer, shorter or begin further on.
        source: The file as a dictionary, for the store, with the number of trials under way.
        file: Its name, for messages.
    """

    name: str
    seed: int
    trials: int
    task: Named
    space: Named
    strategy: Named
    fidelity: Fidelity
    workers: int
    in_flight: int
    training_limit_s: float
    targets: tuple[Target, ...]
    objectives: tuple[str, ...]
    limits: tuple[Limit, ...]
    across_targets: str = "worst"
    screen: Plan = SCREEN
    confirm: Plan = CONFIRM
    check_outputs: str = "front"
    accept_noisy: bool = False
    give_up_after_s: float = 600.0
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    choices: Choices = field(default_factory=Choices)
    pool: str = "processes"
    device: str = "cpu"
    pretraining: Pretraining | None = None
    speedups: Speedups = field(default_factory=Speedups)
    source: Mapping[str, Any] = field(default_factory=dict)
    file: str = field(default="", compare=False)

    def problem(self, metric: str, *, maximise: bool) -> Problem:
        """The task's metric, and costs down: of each target, or of the worst, by its limit if it has one.

        Args:
            metric: What the task calls its metric.
            maximise: Whether more of it is better.
        """
        names = self.choices.places(self.targets)
        in_float = all(target.precision == "fp32" for target in self.targets)
        # At the targets' precisions, the worst of them; training alone tells it where all are float32.
        score = Metric("accuracy", () if in_float else names, maximise=maximise)
        costs = [cost for name in self.objectives for cost in self._costs(name, names)]
        return Problem((score, *costs), self.limits, metric)

    def _costs(self, metric: str, places: tuple[str, ...]) -> list[Metric]:
        if metric not in PER_TARGET:
            return [Metric(metric)]
        if self.across_targets == "each":
            return [Metric(metric, (place,)) for place in places]
        scales = tuple(self._scale(metric, place) for place in places) if len(places) > 1 else (1.0,)
        return [Metric(metric, places, scales)]

    def _scale(self, metric: str, place: str) -> float:
        uppers = [x.upper for x in self.limits if x.metric == Metric(metric, (place,))]
        return min(uppers, default=1.0)


def problem_of(study: Study, task: Task) -> Problem:
    """What a study is after: the task's metric in the task's direction, and the costs that it names."""
    return study.problem(task.metric, maximise=task.maximise)


def read_study(path: Path) -> Study:
    """Reads and validates a study file.

    Raises:
        ConfigError: Naming file, table, key, value and remedy.
    """
    values = Settings.read(path).rest()
    for what in ("task", "space"):
        table = values.get(what)
        if isinstance(table, dict) and isinstance(table.get("name"), str) and _is_path(table["name"]):
            # Stored absolute, so that the run can be resumed from any folder.
            values[what] = {**table, "name": str((path.parent / Path(table["name"]).expanduser()).resolve())}
    study = study_of(_with_in_flight(values), path)
    run_name(study.name, str(path))  # of new runs alone: earlier versions took longer names
    return study


def _with_in_flight(values: dict[str, Any]) -> dict[str, Any]:
    """The file's values with the number of trials under way, if the file names none.

    What is asked for depends on it, so it follows from the file alone, never from this machine, and is stored
    as if the file had named it.
    """
    training = values.get("training", {})
    if not isinstance(training, dict) or "in_flight" in training:
        return values
    trials, workers = values.get("trials", TRIALS), training.get("workers", 1)
    if not isinstance(trials, int) or not isinstance(workers, int):
        return values  # which is refused later, in better words
    in_flight = max(IN_FLIGHT, min(trials // TRIALS_PER_IN_FLIGHT, MOST_IN_FLIGHT), workers)
    return {**values, "training": {**training, "in_flight": in_flight}}


def _workers(training: Settings, pool: str, device: str, in_flight: int) -> int:
    """The number that the file names, or one per core that this process may use and trial under way."""
    if (pool, device) != ("processes", "cpu"):
        return training.take_count("workers", WORKERS)
    return training.take_count("workers", min(len(os.sched_getaffinity(0)), in_flight))


def _is_path(name: str) -> bool:
    return "/" in name or Path(name).suffix in (".py", ".npz") or ".py:" in name


def study_of(values: Mapping[str, Any], path: Path) -> Study:
    """Validates a study that was read before, but for its name; errors as in :func:`read_study`.

    Args:
        values: The file as a dictionary.
        path: Its name, for messages and for the default name of the run.
    """
    top = Settings(values, str(path))
    where = str(path)
    training = top.table("training")
    measurement = top.table("measurement")
    calibration = top.table("calibration")
    targets, limits = _targets(top)
    space = top.table("space")
    choices, chosen_limits = choices_of(space, targets, limits)
    limits += chosen_limits
    pool = training.take_name("pool", POOLS, "processes")
    device = training.take_name("device", DEVICES, "cpu")
    named = training.take_count("workers", WORKERS)
    in_flight = training.take_count("in_flight", _IN_FLIGHT_PER_WORKER * named)
    fidelity = Fidelity(
        epochs=training.take_count("epochs", 10),
        subset=training.take_number("subset", 1.0, low=0.001, high=1.0),
    )
    objectives = _one_or_more(top, "objective", QUANTITIES, "latency_p90")
    if len(set(objectives)) < len(objectives):
        raise top.error("objective", f"names one twice: {objectives}")
    # What decides which trials are wanted must be known of every trial.
    decisive = (*objectives, *(limit.metric.name for limit in limits))
    by_energy = "energy" in decisive
    energy = measurement.take("energy", bool, False) or by_energy
    study = Study(
        name=top.take("name", str, path.stem),
        seed=top.take_count("seed", 0, low=0),
        trials=top.take_count("trials", TRIALS),
        task=_named(top.table("task")),
        space=_named(space),
        strategy=_named(top.table("strategy")),
        fidelity=fidelity,
        workers=_workers(training, pool, device, in_flight),
        in_flight=in_flight,
        training_limit_s=training.take_number("time_limit_s", 3600.0, low=1.0),
        targets=targets,
        objectives=tuple(objectives),
        across_targets=top.take_name("across_targets", ACROSS_TARGETS, "worst"),
        limits=(*limits, *_network_limits(top, where)),
        screen=plan_of(measurement.table("screen"), dataclasses.replace(SCREEN, energy=by_energy), decisive),
        confirm=plan_of(measurement.table("confirm"), dataclasses.replace(CONFIRM, energy=energy), decisive),
        check_outputs=measurement.take_name("check_outputs", CHECKS, "front"),
        accept_noisy=measurement.take("accept_noisy", bool, False),
        give_up_after_s=measurement.take_number("give_up_after_s", 600.0, low=0.0),
        calibration=CalibrationPlan(
            images=calibration.take_count("images", CalibrationPlan.images),
            method=cast(Method, calibration.take_name("method", METHODS, CalibrationPlan.method)),
        ),
        choices=choices,
        pool=pool,
        device=device,
        pretraining=pretraining_of(top.table("pretrain")) if "pretrain" in values else None,
        speedups=speedups_of(top.take("speedups", list, []), fidelity, where),
        source=dict(values),
        file=where,
    )
    for settings in (top, training, measurement, calibration):
        settings.done()
    return study


def run_name(name: str, where: str) -> str:
    """A name that can be that of a folder and of a run.

    Raises:
        ConfigError: If it cannot; names the file.
    """
    if not _RUN_NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: name must be made of letters, digits, - and _, not begin with -, and have "
            f"{MOST_LETTERS} of them at the most, got {name[: MOST_LETTERS + 1]!r}"
        )
    return name


def _named(table: Settings) -> Named:
    return Named(table.take("name", str), table.rest())


def _targets(top: Settings) -> tuple[tuple[Target, ...], tuple[Limit, ...]]:
    targets: list[Target] = []
    limits: list[Limit] = []
    for table in top.tables("targets"):
        texts = _texts(table, "limits")
        for target in targets_of(table):
            if target in targets:
                raise ConfigError(f"{table.where}: the target {target.name} is named twice")
            targets.append(target)
            limits += [_target_limit(text, target, table.where) for text in texts]
        table.done()
    if not targets:
        raise ConfigError(f"{top.where}: names no target; add [[targets]] with device and runtime")
    return tuple(targets), tuple(limits)


def targets_of(table: Settings) -> list[Target]:
    """Targets from device, runtime, precision and options; all combinations where those are lists."""
    device = table.take("device", str)
    runtimes = _one_or_more(table, "runtime", FORMATS)
    precisions = _one_or_more(table, "precision", PRECISIONS, "fp32")
    options = {"threads": 1, **table.table("options").rest()}
    values = [value if isinstance(value, list) else [value] for value in options.values()]
    if not all(values):
        raise ConfigError(f"{table.where}: an option has an empty list of values: {options}")
    return [
        Target(device, runtime, precision, tuple(zip(options, taken, strict=True)))
        for runtime, precision, *taken in itertools.product(runtimes, precisions, *values)
    ]


def target_of(table: Settings) -> Target:
    """The one target of a table without lists; errors as :func:`targets_of`."""
    found = targets_of(table)
    if len(found) != 1:
        raise ConfigError(f"{table.where}: names {len(found)} targets where one is wanted")
    return found[0]


def _one_or_more(table: Settings, key: str, known: Iterable[str], default: str | None = None) -> list[str]:
    """A name or a list of names."""
    given = table.take_optional(key, object)
    value = default if given is None else given
    values = value if isinstance(value, list) else [value]
    if value is None or not values:
        raise table.error(key, "is missing" if value is None else "is an empty list")
    return [Settings({key: each}, table.where).take_name(key, known) for each in values]


def _texts(table: Settings, key: str) -> list[str]:
    values = table.take(key, list, [])
    if not all(isinstance(value, str) for value in values):
        raise table.error(key, f"must be a list of texts like 'latency_p90 <= 8 ms', got {values!r}")
    return [str(value) for value in values]


def _target_limit(text: str, target: Target, where: str) -> Limit:
    metric, upper = parse_limit(text, where)
    if metric not in PER_TARGET:
        raise ConfigError(f"{where}: {metric} belongs to no target; put {text!r} under limits at the top")
    return Limit(Metric(metric, (target.name,)), upper)


def _network_limits(top: Settings, where: str) -> list[Limit]:
    limits = []
    for text in _texts(top, "limits"):
        metric, upper = parse_limit(text, where)
        if metric in PER_TARGET:
            raise ConfigError(f"{where}: {text!r} needs a target; put it under limits of its [[targets]]")
        limits.append(Limit(Metric(metric), upper))
    return limits


def plan_of(table: Settings, default: Plan, metrics: Iterable[str] = ()) -> Plan:
    """A plan from its table; what the table leaves out is that of ``default``.

    Args:
        table: Its table.
        default: What it leaves out.
        metrics: Figures that the plan must carry, such as ``latency_p99``: sessions have as many runs as they
            take.

    Raises:
        ConfigError: If a value is unusable, or there are fewer runs than a figure needs.
    """
    sessions = _sessions(table, default)
    needed = {name: runs_needed(QUANTILES[name], sessions[0]) for name in metrics if name in QUANTILES}
    hardest = max(needed, key=needed.__getitem__, default="")
    least = needed.get(hardest, 1)
    min_runs = table.take_count("min_runs", max(default.min_runs, least))
    if min_runs < least:
        text = f"= {min_runs} is too few: {hardest} needs {least} runs in a session, of which there"
        raise table.error(
            "min_runs", f"{text} may be no more than {sessions[0]}; raise it, or ask for a lower percentile"
        )
    plan = dataclasses.replace(
        default,
        sessions=sessions,
        agents=_agents(table, default, sessions[0]),
        half_width=table.take_number("half_width", default.half_width, low=1e-4, high=1.0),
        session_s=table.take_number("session_s", default.session_s, low=1e-3),
        warmup_s=table.take_number("warmup_s", default.warmup_s, low=0.0),
        min_runs=min_runs,
        max_runs=table.take_count("max_runs", max(default.max_runs, min_runs), low=min_runs),
        load_limit_s=table.take_number("load_limit_s", default.load_limit_s, low=0.1),
        cooldown_s=table.take_number("cooldown_s", default.cooldown_s, low=0.0),
        retries=table.take_count("retries", default.retries, low=0),
        plateau_s=_span(table, "plateau_s", default.plateau_s),
        idle_s=table.take_number("idle_s", default.idle_s, low=0.1),
    )
    table.done()
    return plan


def _sessions(table: Settings, default: Plan) -> tuple[int, int]:
    sessions = table.take("sessions", list, list(default.sessions))
    if len(sessions) != 2 or any(type(n) is not int for n in sessions) or not 1 <= sessions[0] <= sessions[1]:
        raise table.error(
            "sessions", f"must be [least, greatest], two whole numbers from 1 in this order, got {sessions!r}"
        )
    return sessions[0], sessions[1]


def _agents(table: Settings, default: Plan, least: int) -> int:
    """Agents over which the sessions are spread: fewer than usual where there are fewer sessions."""
    agents = table.take_count("agents", min(default.agents, least))
    if agents > least:
        raise table.error(
            "agents",
            f"= {agents} is more than there are sessions: every agent has one at the least, and there may be "
            f"no more than {least}; write sessions = [{agents}, ...], or fewer agents",
        )
    return agents


def _span(table: Settings, key: str, default: tuple[float, float]) -> tuple[float, float]:
    span = table.take(key, list, list(default))
    numbers = [x for x in span if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(span) != 2 or len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] < math.inf:
        raise table.error(key, f"must be [least, greatest] in seconds, got {span!r}")
    return float(numbers[0]), float(numbers[1])
