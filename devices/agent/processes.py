"""What a process says of itself, and how it is tied to the one that made it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import Any, Callable, Iterable, NoReturn, Optional

from .files import field_of, read_text

PR_SET_PDEATHSIG = 1


def load_libc() -> Optional[Any]:
    """The C library, for :func:`die_with_parent`; None where Python was built without ctypes."""
    try:
        import ctypes
    except ImportError:
        return None
    return ctypes.CDLL(None, use_errno=True)


def die_with_parent(libc: Optional[Any], parent: int) -> None:
    """The kernel kills this process when the one that forked it ends, however it ends.

    Without ctypes only the ends of pipes and the end of the process group tell.
    """
    if libc is not None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def run_and_exit(action: Callable[[], None]) -> NoReturn:
    """What a fork does instead of returning into the program that forked it."""
    status = 1
    try:
        action()
        status = 0
    except BaseException:  # noqa: BLE001 - it ends here in any case, and says why
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of ``data``."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]


def ending(status: int) -> str:
    """A wait status in words: the name of a signal, or the number that the process gave."""
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "status %d" % os.WEXITSTATUS(status)


def reset_signals() -> None:
    """Signals as a program starts with them; a fork inherits the handlers of its parent."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def close_all_but(kept: Iterable[int]) -> None:
    """Closes what a fork inherited above stderr: the lock, the pipes of others."""
    kept = set(kept)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):  # the one that listed them is closed already
                os.close(int(name))


def write_no_core() -> None:
    """A crash is told by its signal; a core file would fill the board's disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def prefer_as_oom_victim() -> None:
    """Where memory runs out, the kernel should take the session and not the agent."""
    _write("/proc/self/oom_score_adj", b"1000")


def reset_peak_memory() -> None:
    """Peak memory starts at what is resident now (Linux: ``clear_refs``, value 5)."""
    _write("/proc/self/clear_refs", b"5")


def peak_memory_bytes() -> Optional[int]:
    """Greatest resident size since :func:`reset_peak_memory` (VmHWM): memory of the host CPU only."""
    peak_kib = field_of(read_text("/proc/self/status"), "VmHWM")
    return None if peak_kib is None else 1024 * peak_kib


def _write(path: str, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # a kernel without it; the figure is then larger, or the victim another one
    try:
        os.write(descriptor, data)
    except OSError:
        return
    finally:
        os.close(descriptor)
