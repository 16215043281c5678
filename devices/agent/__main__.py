"""What runs on a board: answers a host over stdin and stdout, and is gone when stdin ends.

Started as ``python3 agent-<hash>.zip SETTINGS``, where SETTINGS is a JSON object: ``agent`` (hash of the
archive), ``directory`` (where files are kept), ``root`` (where the board's file tree starts), ``holder``
(who is asking), ``cache_bytes`` and ``steady`` (whether the frequency governor is set for measuring).
Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import Any, Dict, Tuple

from . import board_lock, facts, messages, processes
from .cache import Cache
from .governor import Governor
from .server import Server


def main() -> int:
    """Runs the agent; gives the status to exit with."""
    settings = json.loads(sys.argv[1])
    incoming, outgoing = _move_streams_aside()
    woken = _wake_on_signals()
    processes.write_no_core()
    directory = os.path.abspath(settings["directory"])
    os.makedirs(directory, exist_ok=True)
    held_by = board_lock.take(os.path.join(directory, "board.lock"), settings["holder"])
    if held_by is not None:
        _greet(outgoing, {"held": held_by})
        return 1
    governor = Governor(settings["root"], directory)
    if settings.get("steady"):
        governor.set()
    cache = Cache(os.path.join(directory, "artifacts"), settings["cache_bytes"])
    server = Server(incoming, outgoing, woken, directory=directory, root=settings["root"], cache=cache)
    gc.freeze()
    _greet(outgoing, {"hello": _hello(settings)})
    try:
        server.run()
    finally:
        governor.close()
    return 0


def _move_streams_aside() -> Tuple[int, int]:
    """Private descriptors for the host, so that nothing a runtime prints or reads enters the conversation."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def _wake_on_signals() -> int:
    """A descriptor that becomes readable when somebody asks for the end."""
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    return woken


def _hello(settings: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "agent": settings["agent"],
        "python": "%d.%d.%d" % sys.version_info[:3],
        "machine": os.uname().machine,
        "boot_id": facts.boot_id(settings["root"]),
        "pid": os.getpid(),
    }


def _greet(outgoing: int, header: messages.Header) -> None:
    processes.write_all(outgoing, messages.GREETING + messages.encode(header))


if __name__ == "__main__":
    raise SystemExit(main())
