"""The command line: one function per command; exit codes as in :mod:`harness.exit_codes`.

Only the standard library is imported here; each command imports what it needs, so that
``boardwise --help`` is instant.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# The four packages have common names; another distribution may have overwritten one of them.
_SPECS = [importlib.util.find_spec(name) for name in ("results", "devices", "search", "harness")]
_HOMES = {str(Path(spec.origin or "").parents[1]) for spec in _SPECS if spec is not None}
if len(_HOMES) != 1:
    sys.exit(f"boardwise: its packages lie in {sorted(_HOMES)}; install it in an environment of its own")

from harness.arguments import count  # noqa: E402
from harness.exit_codes import Exit  # noqa: E402
from harness.terminal import say  # noqa: E402
from results.errors import BoardwiseError, UsageError  # noqa: E402


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end; carries its number.

    A plain ``KeyboardInterrupt`` is raised by nobody but a user's own code, while a command runs.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Parser(argparse.ArgumentParser):
    """Takes options before, between and after the other arguments of a command.

    On its own argparse gives an optional argument up once an option follows those before it, and refuses it
    when it comes: the address in ``devices add NAME --python FILE ADDRESS``.
    """

    _mixes = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's own, in any order; a parser of commands leaves that to the parser of the command."""
        if self._subparsers is not None or self._mixes:
            return super().parse_known_args(args, namespace)
        self._mixes = True  # up to Python 3.12 what is called here calls this method
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixes = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; the return value is the exit code.

    Raises:
        SystemExit: From argparse: 2 for wrong words, 0 after ``--help`` and ``--version``.
    """
    # Closed by the caller (">&-") is not the same as lost: nobody wants to read, and all else goes on.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        with _signals(), _told_of_lost_readers():
            args = _parser().parse_args(argv)
            return int(args.command(args))
    except BoardwiseError as error:
        say(f"boardwise: {error}")
        return Exit.USAGE if isinstance(error, UsageError) else Exit.ERROR
    except Interrupted as stopped:
        name = signal.Signals(stopped.number).name
        say(f"boardwise: stopped by {name}; nothing stored is lost")
        return 128 + stopped.number
    except BrokenPipeError:
        _give_output_up()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _give_output_up()
        say(f"boardwise: {error.filename or 'the output'} cannot be written: {error.strerror}")
        return Exit.ERROR
    except BaseException as error:
        from search.user_code import users_lines

        lines = users_lines(error)
        if lines is None:
            raise  # a mistake of ours: the whole traceback helps to mend it
        say(f"boardwise: code of your own raised:\n{lines}")
        return Exit.ERROR


def _give_output_up() -> None:
    """Keeps Python from complaining once more, at its end, about an output that cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _told_of_lost_readers() -> Iterator[None]:
    """Raises BrokenPipeError where the output has no reader, also in the forms that others give it."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Rich ends the program with 1
            raise BrokenPipeError from end
        raise
    finally:
        sys.stdout.flush()  # else Python finds out only after the exit code was chosen


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end a command equally cleanly; a SIGHUP ignored by nohup stays ignored.

    Only the main thread hears of signals: a command that runs in another leaves them as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="boardwise",
        description="Searches neural architectures for the board on your desk, measured there.",
    )
    parser.add_argument("--version", action="version", version=f"boardwise {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_bench(commands)
    _add_search(commands)
    _add_compare(commands)
    _add_nightly(commands)
    from harness.devices_cli import add_parser

    add_parser(commands)
    return parser


def _version() -> str:
    from importlib.metadata import version

    return version("boardwise")


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: the user's own)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _accept_noisy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-noisy", action="store_true", help="measure on a busy board too, and mark the figures noisy"
    )


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser("bench", help="measure a model file on a device")
    bench.add_argument("model", help=".onnx or .tflite file, or module:function (docs/formats.md)")
    bench.add_argument(
        "--format", choices=("onnx", "tflite"), default="onnx", help="file made of a module (default onnx)"
    )
    bench.add_argument("--on", required=True, metavar="DEVICE", help="name of a device in the lab file")
    bench.add_argument("--threads", type=count, default=1, help="threads of the runtime (default 1)")
    bench.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the runtime"
    )
    bench.add_argument(
        "--shape", action="append", default=[], metavar="[NAME=]1,3,224,224", help="for dynamic inputs"
    )
    bench.add_argument(
        "--sessions",
        type=count,
        metavar="N",
        help="least number of sessions (default 10), over 5 fresh agents or more",
    )
    bench.add_argument("--energy", action="store_true", help="measure energy per inference as well")
    bench.add_argument(
        "--out",
        type=Path,
        default=Path("runs/bench"),
        metavar="FOLDER",
        help="for CSV and store (default runs/bench)",
    )
    _shared(bench)
    bench.set_defaults(command=_bench)


def _add_search(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    search = commands.add_parser("search", help="run a study")
    search.add_argument("study", type=Path, help="study file (TOML)")
    search.add_argument("--dry-run", action="store_true", help="say what it will cost, and stop")
    _accept_noisy(search)
    search.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (default runs)"
    )
    _shared(search)
    search.set_defaults(command=_search)
    resume = commands.add_parser("resume", help="go on with a run that was interrupted")
    resume.add_argument("run", help="name or folder of the run")
    resume.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (default runs)"
    )
    _accept_noisy(resume)
    _shared(resume)
    resume.set_defaults(command=_resume)
    report = commands.add_parser("report", help="write a run's CSVs, pictures and report again")
    report.add_argument("run", help="name or folder of the run")
    report.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (default runs)"
    )
    _shared(report)
    report.set_defaults(command=_report)


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    compare = commands.add_parser("compare", help="say which of two files is faster on a device")
    for side in ("a", "b"):
        what = ".onnx or .tflite file, module:function, or a run (RUN or RUN:TRIAL)"
        compare.add_argument(side, metavar=side.upper(), help=what)
    compare.add_argument("--on", required=True, metavar="DEVICE", help="name of a device in the lab file")
    compare.add_argument("--runtime", choices=("onnxruntime", "tflite"), help="of runs and functions")
    compare.add_argument("--threads", type=count, default=1, help="threads of the runtime (default 1)")
    compare.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the runtime"
    )
    compare.add_argument(
        "--shape", action="append", default=[], metavar="[NAME=]1,3,224,224", help="for dynamic inputs"
    )
    compare.add_argument(
        "--agents", type=count, metavar="N", help="fresh agents that measure both (default 8)"
    )
    compare.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (default runs)"
    )
    _shared(compare)
    compare.set_defaults(command=_compare)


def _add_nightly(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    nightly = commands.add_parser("nightly", help="measure a plan and tell regressions (exit code 3)")
    nightly.add_argument(
        "words", nargs="+", metavar="PLAN | accept NAME", help="plan file, or a series or source to accept"
    )
    nightly.add_argument("--plan", metavar="PLAN", help="accept: which plan, where several have the name")
    nightly.add_argument("--undo", action="store_true", help="accept: take the newest acceptance back")
    nightly.add_argument("--until", metavar="HH:MM", help="begin nothing that would last beyond this time")
    nightly.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (default runs)"
    )
    _accept_noisy(nightly)
    _shared(nightly)
    nightly.set_defaults(command=_nightly, usage=nightly.error)


def _compare(args: argparse.Namespace) -> int:
    from harness.first_look import look_at_device

    look_at_device(args, args.a, args.b)
    from harness.compare import compare_command

    return compare_command(args)


def _nightly(args: argparse.Namespace) -> int:
    if args.words[0] == "accept":
        if len(args.words) != 2:
            args.usage("write it like: boardwise nightly accept NAME")
        from harness.nightly_accept import accept_command

        return accept_command(args)
    if len(args.words) != 1 or args.undo or args.plan is not None:
        args.usage("nightly takes one plan file; --plan and --undo belong to nightly accept NAME")
    from harness.first_look import look_at_plan

    look_at_plan(args, Path(args.words[0]))
    from harness.nightly import nightly

    return nightly(args)


def _bench(args: argparse.Namespace) -> int:
    from harness.first_look import look_at_device

    look_at_device(args, args.model)
    from harness.bench import bench

    return bench(args)


def _search(args: argparse.Namespace) -> int:
    from harness.first_look import look_at_study

    look_at_study(args)
    from harness.studies_cli import dry_run, search

    return dry_run(args) if args.dry_run else search(args)


def _resume(args: argparse.Namespace) -> int:
    from harness.first_look import run_folder

    folder = run_folder(args)
    from harness.studies_cli import resume

    return resume(args, folder)


def _report(args: argparse.Namespace) -> int:
    from harness.first_look import run_folder

    folder = run_folder(args)
    from harness.outcome import report

    return report(args, folder)


if __name__ == "__main__":
    sys.exit(main())
