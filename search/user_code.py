"""A user's own code, which runs in the middle of ours: what it raises becomes an error of ours.

Files and functions that a study names, and plug-ins of entry points, may raise anything at all: exceptions
that cannot be printed, ``SystemExit``, a ``KeyboardInterrupt`` of their own.  None of it may end a search by
a traceback; the user gets the lines of that code alone.
"""

from __future__ import annotations

import contextlib
import signal
import site
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from results.errors import BoardwiseError

HOME = Path(__file__).parents[1]
PACKAGES = ("results", "devices", "search", "harness")

_OURS = tuple(f"{package}." for package in PACKAGES)
_LIBRARIES = [
    *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *site.getsitepackages(),
]
_FRAMES = 3
_MESSAGE_LINES = 6
_LINE_LENGTH = 300
_KEPT_LENGTH = 20_000

_installed: set[Path] = set()
"""Files and folders of installed packages that are plug-ins: a user's code among the libraries."""


def installed(module: ModuleType) -> None:
    """Takes a module, and the package that it is part of, for a user's own code from now on."""
    found = getattr(module, "__file__", None)
    if found is not None:
        place = Path(found)
        depth = module.__name__.count(".") + hasattr(module, "__path__")
        _installed.add(place.parents[depth - 1] if depth else place)


@contextlib.contextmanager
def blamed(what: str, kind: Callable[[str], BoardwiseError]) -> Iterator[None]:
    """Makes whatever code of the user's raises an error of ours.

    Args:
        what: Which code, and what it did, such as ``my_space.py: build() raised``.
        kind: Makes the error of its message.

    Raises:
        BoardwiseError: Of that kind, with the user's own lines; errors of ours go through as they are.
    """
    try:
        yield
    except BaseException as error:
        ours = isinstance(error, BoardwiseError) and type(error).__module__.startswith(_OURS)
        if ours or from_outside(error):
            raise
        raise kind(f"{what}:\n{last_lines(error)}") from error


def from_outside(error: BaseException) -> bool:
    """Whether a signal raised it, and not the code that ran: that one ends the command.

    Signals are noticed by the main thread alone.  Where the command line has a handler of its own, a plain
    ``KeyboardInterrupt`` is nobody's but the user's.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return default or type(error) is not KeyboardInterrupt


def last_lines(error: BaseException) -> str:
    """The end of a traceback: what was raised, and where; a few lines, however long the message is.

    Lines of ours and of libraries tell the user nothing and are left out.
    """
    trace = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in trace.stack if is_users(frame.filename)]
    where = "".join(traceback.StackSummary.from_list(frames[-_FRAMES:]).format())
    said = "".join(trace.format_exception_only()).splitlines()
    if len(said) > _MESSAGE_LINES:
        said = [*said[: _MESSAGE_LINES - 1], f"... ({len(said)} lines)"]
    return "\n".join(_printable(line) for line in [*where.splitlines(), *said])


def users_lines(error: BaseException) -> str | None:
    """:func:`last_lines` of what came out of a user's own code; None where none of it was involved."""
    frames = traceback.extract_tb(error.__traceback__)
    return last_lines(error) if any(is_users(frame.filename) for frame in frames) else None


def whole_traceback(error: BaseException) -> str:
    """The traceback with those of its causes, to be kept; of a very long one the end."""
    text = "".join(traceback.format_exception(error))
    return text[-_KEPT_LENGTH:].encode("utf-8", "backslashreplace").decode()


def is_users(filename: str) -> bool:
    """Whether a file is neither one of Boardwise's nor a library's."""
    path = Path(filename)
    if any(path.is_relative_to(place) for place in _installed):
        return True
    return not (
        filename.startswith("<") or _is_ours(filename) or any(path.is_relative_to(p) for p in _LIBRARIES)
    )


def _is_ours(filename: str) -> bool:
    """Whether a file is one of Boardwise's, or of what imports a user's file for it."""
    if filename.startswith("<frozen importlib"):
        return True
    return any(Path(filename).is_relative_to(HOME / name) for name in PACKAGES)


def _printable(line: str) -> str:
    """A line that any terminal and any file takes, cut where it is very long."""
    line = line.encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= _LINE_LENGTH else line[:_LINE_LENGTH] + " ..."
