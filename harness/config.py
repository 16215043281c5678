"""The composition root: the only place that turns names into objects."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from devices.agent_client import AgentClient
from devices.agent_meter import check_meter
from devices.board_agent import BoardAgent
from devices.board_models import board_models
from devices.device import AskSecret, DeviceEntry, connect
from devices.meter_entry import BOARD, HOST, MeterEntry
from devices.power_switch import PowerSwitch
from devices.registry import Lab
from harness import first_look, plugins
from harness.board import Board
from harness.energy import MeterSeat
from harness.host import Host
from harness.progress import Watcher
from harness.rig import Rig
from harness.speedups import check
from harness.study import Named, Study
from harness.training_pools import pool_of
from results.codec import digest, from_json, to_json
from results.errors import BoardError, ConfigError, StoreError, unknown_name
from results.records import Measurement, Problem
from results.settings import Settings
from results.store import Run, Store
from search.datasets import load_task
from search.joint import JointSpace
from search.recipe import check_recipe
from search.space import SearchSpace
from search.space_file import guarded, space_file
from search.strategy import Strategy
from search.tasks import Task

METERS = ".cache/boardwise/meters"
"""Where agents that only read a meter keep themselves."""

STORE = first_look.STORE
"""File name of the store in a run's folder."""

Reach = tuple[Callable[[], BoardAgent], Callable[[], None]]
"""Starts an agent; ends the connection to it."""

COMMON_ARGUMENTS = ("self", "space", "problem", "fidelity", "seed", "prior", "input_shape", "classes")
"""Arguments of plug-ins that the harness gives, not the study."""

_PLAIN: dict[str, type[Any]] = {"int": int, "float": float, "str": str, "bool": bool}
"""Annotations of arguments of plug-ins whose type is looked at here; of others the plug-in does it."""


def space_of(study: Study, task: Task) -> SearchSpace:
    """The search space of a study, for images of the task's shape, with what else its trials choose."""
    with _table(study, "space"):
        kind = _space_kind(study.space.name)
        _check_options(kind, study.space, "space")
        space: SearchSpace = kind(input_shape=task.input_shape, classes=task.classes, **study.space.options)
        if not study.choices:
            return space
        if task.trainer is None:
            check_recipe({name: values[0] for name, values in study.choices.training.items()})
        deployments = study.choices.deployments(study.targets)
        return JointSpace(space, deployments=deployments, training=study.choices.training)


@contextmanager
def _table(study: Study, name: str) -> Iterator[None]:
    """Says in which table of which file it stands what a plug-in cannot use."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{study.file}: [{name}]: {error}") from error


def _space_kind(name: str) -> type[Any]:
    """The class of a space: a plug-in's, that of a Python file of the user's, or that of a function."""
    if Path(name).suffix == ".py":
        return space_file(Path(name))
    if ":" in name:
        from search.module_space import module_space  # imports torch.fx, which other spaces do not need

        return module_space(name)
    kind = _class_of("spaces", name, SearchSpace)
    ours = kind.__module__.startswith(f"{plugins.PACKAGES['spaces']}.")
    return kind if ours else guarded(kind, f"space {name!r}")


def _class_of(folder: str, name: str, base: type[Any]) -> type[Any]:
    """The class that a plug-in is to define: ``Space`` or ``Strategy``."""
    called = "Space" if folder == "spaces" else "Strategy"
    found = getattr(plugins.load(folder, name), called, None)
    if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
        wanted = f"class {called} with all methods of a {base.__module__}.{base.__name__}"
        raise ConfigError(f"{name!r}: its module defines no {wanted}")
    return found


def strategy_of(study: Study, space: SearchSpace, problem: Problem) -> Strategy:
    """A fresh strategy for a study."""
    with _table(study, "strategy"):
        name, _, sampler = study.strategy.name.partition(":")  # optuna:TPESampler
        options = dict(study.strategy.options) | ({"sampler": sampler} if sampler else {})
        kind = _class_of("strategies", name, Strategy)
        _check_options(kind, Named(name, options), "strategy")
        strategy: Strategy = kind(space, problem, fidelity=study.fidelity, seed=study.seed, **options)
        return strategy


def task_of(study: Study) -> Task:
    """The data set of a study."""
    with _table(study, "task"):
        return load_task(study.task.name, dict(study.task.options))


def _check_options(kind: type[Any], named: Named, what: str) -> None:
    parameters = inspect.signature(kind.__init__).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return  # it looks at its options itself
    known = [name for name in parameters if name not in COMMON_ARGUMENTS]
    given = Settings(named.options, f"{what} {named.name!r}")
    for name in named.options:
        if name not in known:
            raise ConfigError(f"{unknown_name('option', name, known)} ({what} {named.name!r})")
        annotation = parameters[name].annotation
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        wanted = _PLAIN.get(text.removesuffix(" | None"))
        if wanted is not None:
            given.take_optional(name, wanted)


def check_devices(study: Study, lab: Lab) -> None:
    """Refuses a study that names a device that the lab file has not."""
    for target in study.targets:
        lab.entry(target.device)


def board_of(
    entry: DeviceEntry,
    holder: str,
    host: Host,
    *,
    ask_secret: AskSecret | None = None,
    give_up_after_s: float = 600.0,
    on_state: Callable[[str, str], None] = lambda name, state: None,
    lab: Lab | None = None,
) -> Board:
    """A device for use; nothing is connected yet.

    Args:
        entry: The device.
        holder: What others are told who find the board taken.
        host: This machine.
        ask_secret: Asks for passphrases and passwords.
        give_up_after_s: How long it may stay away.
        on_state: Called when it goes offline or comes back.
        lab: Other devices, where a meter may hang on one of them.
    """
    start, disconnect = (
        _replay(entry) if entry.connection == "replay" else _machine(entry, holder, ask_secret)
    )
    seat = meter_seat(entry, holder, lab, ask_secret)
    return Board(
        entry.name, start, disconnect, host, give_up_after_s=give_up_after_s, on_state=on_state, meter=seat
    )


def meter_seat(
    entry: DeviceEntry, holder: str, lab: Lab | None = None, ask_secret: AskSecret | None = None
) -> MeterSeat:
    """Where the power meter of a device is read; nothing is connected yet.

    Raises:
        ConfigError: For an unknown meter or option, or a machine that there is not.
    """
    how = board_models()[entry.board].energy if entry.board in board_models() else ""
    if not entry.meter:
        return MeterSeat(entry.name, how=how)
    meter = MeterEntry.of(entry.meter)
    check_meter(entry.name, meter.kind, meter.options)
    start = None if meter.on == BOARD else _meter_agent(entry.name, meter, holder, lab, ask_secret)
    return MeterSeat(entry.name, meter=meter.kind, options=meter.options, start=start, how=how)


def _meter_agent(
    device: str, meter: MeterEntry, holder: str, lab: Lab | None, ask_secret: AskSecret | None
) -> Callable[[], AgentClient]:
    """Starts an agent beside the meter: in a folder of its own, whose lock is that of the meter."""
    folder = f"{METERS}/{meter.kind}-{digest(to_json(dict(meter.options)))[:12]}"
    other = DeviceEntry(device, "local", python=sys.executable)
    if meter.on != HOST:
        if lab is None:
            raise ConfigError(f"[devices.{device}.meter] on = {meter.on!r}: no lab file to look it up in")
        other = lab.entry(meter.on)

    def start() -> AgentClient:
        connection = connect(other, ask_secret=ask_secret)
        try:
            return AgentClient.start(
                connection,
                python=meter.python or other.python,
                directory=folder,
                holder=f"{holder}, for {device}",
                root=other.root,
                owns_connection=True,
            )
        except BoardError:
            connection.close()
            raise

    return start


def _replay(entry: DeviceEntry) -> Reach:
    from devices.replay import ReplayAgent

    agent = ReplayAgent(entry.name, measurements_of(Path(entry.address).expanduser()))
    return (lambda: agent), (lambda: None)


def measurements_of(path: Path) -> list[Measurement]:
    """Everything that the runs of a store have measured.

    Args:
        path: A run's folder or its store.

    Raises:
        StoreError: If there is no store, or it has no measurement.
    """
    file = path / STORE if path.is_dir() else path
    if not file.is_file():
        raise StoreError(f"{file}: no such store; a replay device's address is the folder of a run")
    with Store.open(file) as store:
        records = [record for name in store.runs() for record in store.run(name).records()]
    bodies = [r.body["measurement"] for r in records if isinstance(r.body, dict) and "measurement" in r.body]
    if not bodies:
        raise StoreError(f"{file}: holds no measurement to replay")
    return [from_json(Measurement, body) for body in bodies]


def _machine(entry: DeviceEntry, holder: str, ask_secret: AskSecret | None) -> Reach:
    connection = connect(entry, ask_secret=ask_secret)
    switch = switch_of(entry)

    def start() -> BoardAgent:
        if switch is not None:
            switch.on()
        agent = AgentClient.start(
            connection,
            python=entry.python,
            directory=entry.directory,
            holder=holder,
            root=entry.root,
            steady=True,
        )
        return agent if switch is None else switch.attended(agent)

    def disconnect() -> None:
        if switch is not None:
            switch.wake()
        connection.close()
        if switch is not None:
            switch.release()

    return start, disconnect


def switch_of(entry: DeviceEntry) -> PowerSwitch | None:
    """The power switch of a device, if it has one.

    Raises:
        ConfigError: For an unknown kind or option, with the nearest known.
    """
    if not entry.power_switch:
        return None
    options = dict(entry.power_switch)
    kind = plugins.load("power_switches", str(options.pop("kind"))).Switch
    known = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "entry")]
    for name in options:
        if name not in known:
            raise ConfigError(f"[devices.{entry.name}.power_switch] {unknown_name('option', name, known)}")
    switch: PowerSwitch = kind(entry, **options)
    return switch


@contextmanager
def open_rig(
    study: Study,
    lab: Lab,
    run: Run,
    watcher: Watcher,
    *,
    ask_secret: AskSecret | None = None,
    task: Task | None = None,
) -> Iterator[Rig]:
    """Everything a study needs while it runs; what was opened is closed however it ends.

    Args:
        study: The study.
        lab: Its devices.
        run: Where everything is stored.
        watcher: Told what happens.
        ask_secret: Asks for passphrases and passwords.
        task: The study's task, where it is loaded already.
    """
    check_devices(study, lab)
    task = task_of(study) if task is None else task
    check(study.speedups, task, pretrains=study.pretraining is not None)
    space = space_of(study, task)
    host = Host()
    with ExitStack() as stack:
        pool = pool_of(study)
        stack.callback(pool.close)
        host.set_background(pool)
        boards = {}
        for name in dict.fromkeys(target.device for target in study.targets):
            board = board_of(
                lab.entry(name),
                f"boardwise study {study.name}",
                host,
                ask_secret=ask_secret,
                give_up_after_s=study.give_up_after_s,
                on_state=watcher.board,
                lab=lab,
            )
            stack.callback(board.close)
            boards[name] = board
        yield Rig(study, run.store, run, space, task, pool, boards, host, watcher)
