"""``boardwise devices emulate``: a whole ARM board in QEMU, built on first use, added to the lab file.

Only the standard library is imported at top level, so that ``boardwise --help`` is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.arguments import count
from harness.exit_codes import Exit
from harness.terminal import console, write
from harness.terminal import say as _say
from harness.terminal import write_json as _print_json

if TYPE_CHECKING:
    from devices.agent_replies import BoardFacts
    from devices.device import DeviceEntry
    from devices.emulation.board import EmulatedBoard
    from devices.emulation.image import Image
    from devices.emulation.recipe import Profile, Recipe
    from devices.registry import Lab

LEAVE_KEY = b"\x1d"
"""Ctrl-], which ends a look at the console."""

Say = Callable[[str], None]


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``emulate`` to the actions of ``devices``."""
    emulate = actions.add_parser("emulate", help="start an emulated ARM board and add it to the lab file")
    emulate.add_argument(
        "profile", nargs="?", help="pi3, pi4, pi5, zero2, orin-nano or armv7; --list says more"
    )
    emulate.add_argument("--name", help="name in the lab file (default: the profile's)")
    emulate.add_argument(
        "--clock",
        choices=("virtual", "wall"),
        default="virtual",
        help="virtual: time is counted in instructions and figures repeat; wall: the host's time",
    )
    emulate.add_argument(
        "--cpus", type=count, default=1, help="number of CPUs; more than 1 needs --clock wall"
    )
    emulate.add_argument(
        "--rebuild", action="store_true", help="build the image anew, with the newest packages"
    )
    what = emulate.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list profiles and the boards that there are")
    what.add_argument("--stop", action="store_true", help="stop the board; it stays in the lab file")
    what.add_argument("--console", action="store_true", help="show the board's console; Ctrl-] leaves it")
    emulate.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: the user's own)")
    emulate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    emulate.set_defaults(command=_emulate, usage_error=emulate.error)


def _emulate(args: argparse.Namespace) -> int:
    if args.list:
        return _list(args)
    if not args.profile:
        args.usage_error("which profile? pi4, for example; --list shows all")
    if args.stop:
        return _stop(args)
    return _console(args) if args.console else _start(args)


def _start(args: argparse.Namespace) -> int:
    from devices.registry import Lab

    lab = Lab.load(args.lab)
    port = _port_of(lab, args)
    with _telling() as say:
        board = _board(args, say)
        if args.rebuild:
            board.stop()
            board.image(rebuild=True)
        entry = board.start(port=port, outlives_us=True)
        say("asking it what it is")
        facts = _facts(entry)
        board.pause()
    _register(lab, entry, facts)
    if args.json:
        _print_json({"entry": dataclasses.asdict(lab.entry(entry.name)), "facts": dataclasses.asdict(facts)})
        return Exit.FINE
    runtimes = ", ".join(f"{name} {version}" for name, version in facts.runtimes.items())
    write(f"{entry.name}: {facts.model}, {facts.os}, {runtimes}")
    write(
        f"emulated ({facts.emulated}): figures are for emulated boards alone, they say nothing of real ones"
    )
    write(f"it is in {lab.path}")
    write(f"it is paused until it is needed; measure on it: boardwise bench MODEL --on {entry.name}")
    return Exit.FINE


def _port_of(lab: Lab, args: argparse.Namespace) -> int | None:
    """The port of a board that is in the lab file already.

    Raises:
        ConfigError: If the name is another device's.
    """
    from devices.ssh_config import SshAddress
    from results.errors import ConfigError

    known = lab.entries.get(_name(args))
    if known is None:
        return None
    if known.power_switch.get("kind") != "qemu":
        raise ConfigError(
            f"{lab.path}: [devices.{known.name}] is another device, at {known.address or known.connection};"
            " choose another name with --name"
        )
    return SshAddress.parse(known.address).port


def _register(lab: Lab, entry: DeviceEntry, facts: BoardFacts) -> None:
    """Puts the board into the lab file, in the place of what it was before."""
    from devices.board_models import identify
    from devices.device import Seen

    shared = {f.name: getattr(facts, f.name) for f in dataclasses.fields(Seen) if f.name != "at"}
    seen = Seen(at=datetime.now(UTC).isoformat(timespec="seconds"), **shared)
    new = dataclasses.replace(entry, board=identify(facts.model).name, seen=seen)
    known = lab.entries.get(entry.name)
    if known is not None and dataclasses.replace(known, seen=seen) == new:
        return
    if known is not None:
        lab.remove(entry.name)
    lab.add(new)


def _facts(entry: DeviceEntry) -> BoardFacts:
    from devices.agent_client import AgentClient
    from devices.device import connect

    with connect(entry) as connection:
        agent = AgentClient.start(
            connection,
            python=entry.python,
            directory=entry.directory,
            holder="boardwise devices emulate",
            root=entry.root,
        )
        try:
            return agent.probe()
        finally:
            agent.close()


def _stop(args: argparse.Namespace) -> int:
    board = _board(args, _say)
    was_alive = board.is_alive
    board.stop()
    if args.json:
        _print_json({"stopped": board.name if was_alive else None})
    _say(f"{board.name} is stopped" if was_alive else f"{board.name} does not run")
    return Exit.FINE


def _list(args: argparse.Namespace) -> int:
    from devices.emulation.image import built
    from devices.emulation.recipe import profiles, recipes
    from devices.registry import Lab

    images = {name: built(recipe) for name, recipe in recipes().items()}
    boards = [_row(entry) for entry in Lab.load(args.lab).entries.values() if _is_emulated(entry)]
    shown = [_profile_row(p, recipes()[p.recipe], images[p.recipe]) for p in profiles().values()]
    if args.json:
        _print_json({"profiles": shown, "boards": boards})
        return Exit.FINE
    for p in shown:
        ready = "image built" if p["image"] else "image not built yet"
        write(f"{p['profile']:8} {p['title']}; {' and '.join(p['runtimes'])}; {ready}")
    for b in boards:
        write(f"board {b['name']}: {b['profile']}, {b['clock']} time, {b['state']}, {b['address']}")
    return Exit.FINE


def _profile_row(profile: Profile, recipe: Recipe, image: Image | None) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "title": profile.title,
        "memory_bytes": profile.memory_bytes,
        "runtimes": list(recipe.runtimes),
        "image": str(image.folder) if image else None,
    }


def _row(entry: DeviceEntry) -> dict[str, Any]:
    from devices.emulation.machine import Machine
    from devices.emulation.places import board_folder

    machine = Machine(entry.name, board_folder(entry.name))
    state = "stopped" if not machine.is_alive else "running" if machine.is_running else "paused"
    switch = entry.power_switch
    return {
        "name": entry.name,
        "profile": switch.get("profile"),
        "clock": switch.get("clock", "virtual"),
        "state": state,
        "address": entry.address,
    }


def _is_emulated(entry: DeviceEntry) -> bool:
    return entry.power_switch.get("kind") == "qemu"


def _console(args: argparse.Namespace) -> int:
    """Joins the terminal and the board's console, until Ctrl-], the end of input or the board's end."""
    from devices.emulation.qmp import connect_to
    from results.errors import ConnectionLost

    board = _board(args, _say)
    if not board.is_alive:
        raise ConnectionLost(board.name, "does not run; start it: boardwise devices emulate " + args.profile)
    sys.stdout.write(board.console)
    sys.stdout.flush()
    board.resume()
    try:
        with connect_to(board.name, board.folder / "console.sock") as console, _raw_terminal():
            _relay(console)
    finally:
        board.pause()
    return Exit.FINE


def _relay(console: socket.socket) -> None:
    terminal = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([console, terminal], [], [])
        if console in ready:
            data = console.recv(4096)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        if terminal in ready:
            data = os.read(terminal, 4096)
            if not data or LEAVE_KEY in data:
                return
            console.sendall(data)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go to the board as they are typed."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _board(args: argparse.Namespace, say: Say) -> EmulatedBoard:
    from devices.emulation.board import EmulatedBoard
    from results.errors import ConfigError, UsageError

    try:
        return EmulatedBoard(_name(args), args.profile, clock=args.clock, cpus=args.cpus, say=say)
    except ConfigError as error:  # all of it are words of the command line
        raise UsageError(str(error)) from error


def _name(args: argparse.Namespace) -> str:
    return str(args.name or args.profile)


@contextlib.contextmanager
def _telling() -> Iterator[Say]:
    """Says what is going on: one moving line on a terminal, else a line each, on stderr."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    terminal = console(stderr=True)
    if not terminal.is_terminal:
        yield _say
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda text: progress.update(task, description=text)
