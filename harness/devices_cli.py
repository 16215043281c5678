"""``boardwise devices``: add, set up, list, show, check and remove boards.

Only the standard library is imported at top level, so that ``boardwise --help`` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import emulate_cli
from harness.exit_codes import Exit
from harness.host_trust import ask_secret, trust_host
from harness.terminal import console, write
from harness.terminal import say as _say
from harness.terminal import write_json as _print_json

if TYPE_CHECKING:
    from devices.agent_replies import BoardFacts
    from devices.board_agent import BoardAgent
    from devices.connection import Connection
    from devices.device import DeviceEntry, Seen
    from devices.preflight_checks import CheckResult
    from devices.provision import Provisioned
    from devices.registry import Lab

LIST_COLUMNS = ("name", "address", "board", "machine", "memory", "Python")
"""In the order in which they are worth their room."""

RUNTIMES = ("onnxruntime", "tflite", "all")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``devices`` and its subcommands to the command line."""
    devices = commands.add_parser("devices", help="add, set up, list, show, check and remove boards")
    actions = devices.add_subparsers(required=True, metavar="ACTION")
    _add_add(actions)
    setup = _action(
        actions, "setup", "bring a runtime to a board; needs no pip and no internet there", _setup
    )
    setup.add_argument("name", help="name in the lab file")
    setup.add_argument("--runtime", choices=RUNTIMES, default="all", help="default: all that exist for it")
    setup.add_argument(
        "--version", metavar="V", help="release of the runtime's package (default: the newest)"
    )
    setup.add_argument(
        "--beside",
        action="store_true",
        help="keep other releases; targets choose by package = 'name==version'",
    )
    _action(actions, "list", "list the devices of the lab file", _list)
    emulate_cli.add_parser(actions)
    for name, help_text, command in (
        ("show", "ask a device what it is", _show),
        ("remove", "take a device out of the lab file", _remove),
    ):
        _action(actions, name, help_text, command).add_argument("name", help="name in the lab file")
    check = _action(actions, "check", "check whether a device can be measured now", _check)
    check.add_argument("name", help="name in the lab file")
    check.add_argument(
        "--fix", action="store_true", help="mend what can be mended without more rights than yours"
    )


def _add_add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add = _action(actions, "add", "add a device to the lab file, or look again at one that is there", _add)
    add.add_argument("name", help="name for studies and file names: letters, digits, - and _")
    add.add_argument("address", nargs="?", help="[user@]host[:port], or an alias of your ssh configuration")
    add.add_argument("--local", action="store_true", help="this very machine, without ssh")
    add.add_argument("--python", default="python3", help="Python on the device (default: python3)")
    add.add_argument("--directory", default=".cache/boardwise", help="Boardwise's directory on the device")
    add.add_argument(
        "--identity-file", type=Path, metavar="FILE", help="private key (default: as ssh takes it)"
    )
    add.add_argument("--ssh-config", type=Path, metavar="FILE", help="ssh configuration instead of your own")
    add.add_argument(
        "--fingerprint",
        action="append",
        default=[],
        metavar="SHA256:...",
        help="trust this host key without asking; once more for each jump host",
    )


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_text: str, command: Any
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text)
    parser.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: the user's own)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(command=command, usage_error=parser.error)
    return parser


# --------------------------------------------------------------------------- commands


def _add(args: argparse.Namespace) -> int:
    from devices.board_models import identify
    from devices.device import connect
    from devices.registry import Lab

    if args.local == bool(args.address):
        args.usage_error("give either an address, [user@]host[:port], or --local")
    lab = Lab.load(args.lab)
    entry = _new_entry(args, lab)
    if entry.connection == "ssh":
        trust_host(entry, lab, args.fingerprint)
    with connect(entry, ask_secret=ask_secret()) as connection:
        facts = _facts(connection, entry, "add")
    board, seen = identify(facts.model).name, _seen(facts)
    if args.name in lab.entries:
        lab.update(args.name, board, seen)
    else:
        lab.add(dataclasses.replace(entry, board=board, seen=seen))
    _print_facts(lab.entry(args.name), facts, args.json)
    _say(f"{args.name} is in {lab.path}")
    if not facts.runtimes:
        _say(f"no runtime on it yet; bring one: boardwise devices setup {args.name}")
    return Exit.FINE


def _setup(args: argparse.Namespace) -> int:
    from devices.device import connect
    from devices.registry import Lab

    if args.version and args.runtime == "all":
        args.usage_error(f"--version {args.version}: of which runtime? Add --runtime onnxruntime or tflite")
    entry = Lab.load(args.lab).entry(args.name)
    with connect(entry, ask_secret=ask_secret()) as connection:
        brought = _bring(connection, entry, args)
        facts = _facts(connection, entry, "setup")
    rows = [
        (b["runtime"], _release(b), b["numpy"], facts.runtimes.get(b["runtime"], "none")) for b in brought
    ]
    if args.json:
        _print_json({"brought": brought, "runtimes": dict(facts.runtimes)})
    else:
        _print_table(("runtime", "brought", "with NumPy", "found by the agent"), rows)
    return Exit.FINE


def _release(brought: Mapping[str, Any]) -> str:
    whose = "" if brought["folder"] else " (the board's own)"
    return f"{brought['package']} {brought['version']}{whose}"


def _list(args: argparse.Namespace) -> int:
    from devices.registry import Lab

    lab = Lab.load(args.lab)
    if args.json:
        _print_json([dataclasses.asdict(entry) for entry in lab.entries.values()])
    elif lab.entries:
        _print_list([_list_row(entry) for entry in lab.entries.values()])
    else:
        _say(f"{lab.path}: no devices yet; add one: boardwise devices add NAME USER@HOST")
    return Exit.FINE


def _show(args: argparse.Namespace) -> int:
    from devices.device import connect
    from devices.registry import Lab

    entry = Lab.load(args.lab).entry(args.name)
    with connect(entry, ask_secret=ask_secret()) as connection:
        facts = _facts(connection, entry, "show")
    _print_facts(entry, facts, args.json)
    return Exit.FINE


def _check(args: argparse.Namespace) -> int:
    from devices.registry import Lab

    lab = Lab.load(args.lab)
    entry = lab.entry(args.name)
    from devices.device import connect
    from devices.preflight import check, examine
    from harness.config import meter_seat
    from harness.meter_check import try_meter

    seat = meter_seat(entry, _holder("check"), lab, ask_secret())

    def look(connection: Connection) -> list[CheckResult]:
        return check(
            examine(
                connection,
                entry,
                lambda c: _start_agent(c, entry, "check"),
                lambda agent, facts: try_meter(agent, facts, seat),
            )
        )

    with connect(entry, ask_secret=ask_secret()) as connection:
        results = look(connection)
        if args.fix:
            from harness.devices_fix import fix

            for line in fix(connection, entry, results, _say):
                _say(line)
            results = look(connection)
    if args.json:
        _print_json([dataclasses.asdict(result) for result in results])
    else:
        rows = [(r.name, r.state, r.found, r.wanted, r.remedy) for r in results]
        _print_table(("check", "", "found", "wanted", "remedy"), rows)
    return Exit.ERROR if any(result.state == "refused" for result in results) else Exit.FINE


def _remove(args: argparse.Namespace) -> int:
    from devices.registry import Lab

    lab = Lab.load(args.lab)
    entry = lab.entry(args.name)
    lab.remove(args.name)
    if args.json:
        _print_json({"removed": args.name})
    kept = f"; its host key stays trusted in {entry.known_hosts}" if entry.connection == "ssh" else ""
    _say(f"{args.name} is out of {lab.path}{kept}")
    return Exit.FINE


# --------------------------------------------------------------------------- steps


def _new_entry(args: argparse.Namespace, lab: Lab) -> DeviceEntry:
    """The device as the command line gives it; one that is there already must be the same."""
    from devices.device import DeviceEntry
    from results.errors import ConfigError, UsageError

    known = lab.entries.get(args.name)
    if known:
        if known.connection != ("local" if args.local else "ssh") or known.address != (args.address or ""):
            raise ConfigError(
                f"{lab.path}: [devices.{args.name}] is there already, {known.address or known.connection};"
                f" choose another name, or remove it first: boardwise devices remove {args.name}"
            )
        return known
    try:
        return DeviceEntry(
            args.name,
            "local" if args.local else "ssh",
            args.address or "",
            args.python,
            args.directory,
            known_hosts=None if args.local else str(lab.known_hosts),
            identity_file=_absolute(args.identity_file),
            ssh_config=_absolute(args.ssh_config),
        )
    except ConfigError as error:  # all of it are words of the command line
        raise UsageError(str(error)) from error


def _absolute(path: Path | None) -> str | None:
    return str(path.expanduser().absolute()) if path else None


def _bring(connection: Connection, entry: DeviceEntry, args: argparse.Namespace) -> list[dict[str, Any]]:
    from devices.interpreter import look
    from devices.provision import board_own, provision
    from devices.wheels import runtimes_for

    def bring(runtime: str) -> Provisioned:
        own = board_own(connection, entry, runtime) if args.runtime == "all" else None
        if own is not None:
            _say(f"{own.package} {own.version} is the board's own and runs a small model")
            return own
        return provision(connection, entry, runtime, version=args.version, beside=args.beside, say=_say)

    wanted = [args.runtime]
    # The agent holds the board's lock: nobody's measurement is disturbed by the unpacking.
    agent = _start_agent(connection, entry, "setup")
    try:
        if args.runtime == "all":
            wanted = runtimes_for(look(connection, entry.python)) or ["onnxruntime"]
        return [dataclasses.asdict(bring(runtime)) for runtime in wanted]
    finally:
        agent.close()


def _start_agent(connection: Connection, entry: DeviceEntry, action: str) -> BoardAgent:
    from devices.agent_client import AgentClient

    return AgentClient.start(
        connection,
        python=entry.python,
        directory=entry.directory,
        root=entry.root,
        holder=_holder(action),
    )


def _holder(action: str) -> str:
    """What others are told who find the board or its meter taken."""
    return f"boardwise devices {action} by {getpass.getuser()}@{socket.gethostname()}"


def _facts(connection: Connection, entry: DeviceEntry, action: str) -> BoardFacts:
    from devices.interpreter import look, require

    require(entry.name, look(connection, entry.python))
    agent = _start_agent(connection, entry, action)
    try:
        return agent.probe()
    finally:
        agent.close()


# --------------------------------------------------------------------------- output


def _seen(facts: BoardFacts) -> Seen:
    from devices.device import Seen

    shared = {f.name: getattr(facts, f.name) for f in dataclasses.fields(Seen) if f.name != "at"}
    return Seen(at=datetime.now(UTC).isoformat(timespec="seconds"), **shared)


def _list_row(entry: DeviceEntry) -> tuple[str, ...]:
    seen = entry.seen
    tail = (seen.machine, _megabytes(seen.memory_bytes), seen.python) if seen else ("", "", "")
    return (entry.name, entry.address or entry.connection, entry.board, *tail)


def _print_list(rows: Sequence[Sequence[str]]) -> None:
    """A line per device, never broken; on a terminal only the columns that fit, the name at least."""
    lines = [LIST_COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(LIST_COLUMNS))]
    shown = len(widths)
    if sys.stdout.isatty():
        room = console().width
        shown = max([1, *(n for n in range(1, shown + 1) if sum(widths[:n]) + 2 * (n - 1) <= room)])
    for line in lines:
        write("  ".join(map(str.ljust, line[:shown], widths)).rstrip())
    if shown < len(widths):
        _say(f"not shown for want of room: {', '.join(LIST_COLUMNS[shown:])}; --json has all")


def _print_facts(entry: DeviceEntry, facts: BoardFacts, as_json: bool) -> None:
    from devices.board_models import board_models

    if as_json:
        _print_json({"entry": dataclasses.asdict(entry), "facts": dataclasses.asdict(facts)})
        return
    board = board_models()[entry.board]
    clusters = [f"{len(cpus)} at {hz / 1e9:.2f} GHz" if hz else f"{len(cpus)}" for hz, cpus in facts.clusters]
    rows = [
        ("model", facts.model),
        ("board", f"{board.title} ({board.name})"),
        ("CPUs", f"{facts.cpus} {facts.machine}: {', '.join(clusters) or 'clusters not known'}"),
        ("memory", _megabytes(facts.memory_bytes)),
        ("system", f"{facts.os}, kernel {facts.kernel}, {facts.libc}"),
        ("Python", facts.python),
        ("runtimes", ", ".join(f"{name} {version}" for name, version in facts.runtimes.items()) or "none"),
        ("governor", facts.governor),
        ("meters", _meters(entry, facts)),
        ("energy", board.energy),
        ("disk", f"{_megabytes(facts.disk_free_bytes)} free"),
        ("unit", facts.unit),
    ]
    _print_table(("", entry.name), rows)


def _meters(entry: DeviceEntry, facts: BoardFacts) -> str:
    """The meter of the lab file, those of the board, and why others cannot be read."""
    known = [f"{entry.meter['kind']} (lab file)"] if entry.meter else []
    known += facts.meters
    problems = [f"{name} cannot be read: {problem}" for name, problem in facts.meter_problems.items()]
    return "; ".join([", ".join(known) or "none that can be read", *problems])


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Column, Table

    table = Table(*(Column(title, overflow="fold") for title in header), box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console().print(table)
