"""The frequency governor while a board is measured: set to ``performance``, and surely set back.

Before anything is written, what was there goes to a file.  A child process, the watchdog, waits at a pipe
whose other end the agent holds: when the agent ends, by whatever way (``kill -9`` too), the watchdog sets
back what the file says.  After a power cut the next agent does.  Only what still is as the agent set it is
set back, so that nobody's own change is undone.

Without the right to write (``sudo -n`` is tried), governors stay as they are; the board's facts say so.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from typing import Any, Dict, List, Optional

from . import processes
from .files import paths, read_text

WANTED = "performance"
POLICIES = "sys/devices/system/cpu/cpufreq/policy*"
SUDO_LIMIT_S = 5.0


class Governor:
    """The board's governors in the hands of one agent.

    Args:
        root: Where the board's file tree starts.
        directory: The agent's own directory, for the state file and its lock.
    """

    def __init__(self, root: str, directory: str) -> None:
        self._root = root
        self._state = os.path.join(directory, "governor.json")
        # Held by agent and watchdog together, so that no agent sets what another's watchdog sets back.
        self._lock = os.open(
            os.path.join(directory, "governor.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._alive: Optional[int] = None
        self._watchdog = 0
        self.restore()

    def set(self) -> None:
        """Sets every governor that is not ``performance`` and may be, and starts the watchdog."""
        before = self._others()
        if not before or not self._may_write(next(iter(before))):
            return
        _write_durably(self._state, json.dumps(before))
        self._watch()
        for path in before:
            _write(path, WANTED, self._root)

    def restore(self) -> None:
        """Sets back what the state file says; does nothing without one."""
        text = read_text(self._state)
        if text is None:
            return
        for path, value in _parsed(text).items():
            if read_text(path) == WANTED:
                _write(path, value, self._root)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._state)

    def close(self) -> None:
        """Sets back and ends the watchdog."""
        self.restore()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None
            os.waitpid(self._watchdog, 0)
        os.close(self._lock)

    def _others(self) -> Dict[str, str]:
        """Governors by file, of the policies that have another one and know ``performance``."""
        found = {}
        for policy in paths(self._root, POLICIES):
            name = os.path.join(policy, "scaling_governor")
            value = read_text(name)
            known = (read_text(os.path.join(policy, "scaling_available_governors")) or "").split()
            if value not in (None, "", WANTED) and WANTED in known:
                found[name] = str(value)
        return found

    def _may_write(self, path: str) -> bool:
        if os.access(path, os.W_OK):
            return True
        return self._root == "/" and _sudo(["true"], "")

    def _watch(self) -> None:
        """Forks the watchdog, in a session of its own: a closed connection ends the agent's process group."""
        ended, self._alive = os.pipe()
        self._watchdog = os.fork()
        if self._watchdog == 0:
            os.close(self._alive)
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            processes.close_all_but([ended, self._lock])
            processes.run_and_exit(lambda: self._be_watchdog(ended))
        os.close(ended)

    def _be_watchdog(self, ended: int) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # the agent's; a connection would wait for their end
            os.dup2(nothing, descriptor)
        while os.read(ended, 1):
            pass
        self.restore()


def _parsed(text: str) -> Dict[str, str]:
    """What a state file says; nothing where a power cut has damaged it."""
    try:
        state = json.loads(text)
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in state.items()} if isinstance(state, dict) else {}


def _write(path: str, value: str, root: str) -> bool:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
        return True
    except OSError:
        return root == "/" and _sudo(["tee", path], value)


def _sudo(command: List[str], text: str) -> bool:
    """Runs a command with sudo if that asks for nothing."""
    options: Dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        done = subprocess.run(
            ["sudo", "-n", *command], input=text.encode(), timeout=SUDO_LIMIT_S, check=False, **options
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _write_durably(path: str, text: str) -> None:
    new = path + ".new"
    with open(new, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def clock_settings(root: str) -> Dict[str, str]:
    """What else decides how fast a board is, as far as it tells: power mode, turbo, locked clocks.

    Jetson: the mode of nvpmodel, and whether jetson_clocks has locked memory and GPU (least equals greatest
    clock); x86: turbo; everywhere: whether the CPUs' clocks are locked.
    """
    found = {
        "nvpmodel": read_text(os.path.join(root, "var/lib/nvpmodel/status")),
        "no_turbo": read_text(os.path.join(root, "sys/devices/system/cpu/intel_pstate/no_turbo")),
        "boost": read_text(os.path.join(root, "sys/devices/system/cpu/cpufreq/boost")),
        "emc_locked": read_text(os.path.join(root, "sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked")),
    }
    limits = [_limits(policy, "scaling_%s_freq") for policy in paths(root, POLICIES)]
    if any(limits):
        found["cpu_clocks"] = " ".join(dict.fromkeys(limit for limit in limits if limit))
    for device in paths(root, "sys/class/devfreq/*"):
        limit = _limits(device, "%s_freq")
        if limit:
            found["devfreq_" + os.path.basename(device)] = limit
    return {key: " ".join(value.split()) for key, value in found.items() if value}


def _limits(folder: str, pattern: str) -> str:
    low, high = (read_text(os.path.join(folder, pattern % end)) for end in ("min", "max"))
    if not low or not high:
        return ""
    return "locked at " + high if low == high else "free up to " + high
