"""One QEMU process: how it is started, found again, paused and ended.

Whether it lives is read from the lock that QEMU itself holds on its pid file, never from a name or a
number that may have been given to another process since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from devices.emulation.host_programs import find
from devices.emulation.qmp import Qmp
from devices.emulation.recipe import Profile, Recipe
from results.errors import BoardDiskFull, BoardError, ConnectionLost, PreflightError

HOST = "127.0.0.1"
Clock = Literal["virtual", "wall"]
"""``virtual``: the board's time is the number of instructions it ran, 2 ns each; ``wall``: the host's."""

_BANNER_PAUSE_S = 0.05
_END_LIMIT_S = 10.0
_START_LIMIT_S = 60.0
_TRANSLATED_MB = 32


@dataclass(frozen=True)
class Hardware:
    """What a board is made of, as far as QEMU is asked for it.

    Attributes:
        recipe: Its system.
        profile: Its model.
        clock: How its time passes.
        cpus: Number of CPUs; several need the wall clock.
    """

    recipe: Recipe
    profile: Profile
    clock: Clock = "virtual"
    cpus: int = 1


class Machine:
    """A QEMU process in a folder of its own; nothing happens before :meth:`start`.

    Args:
        name: Board, for errors.
        folder: Where its pid file, sockets and console log are.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    @property
    def is_alive(self) -> bool:
        """Whether QEMU runs, whoever started it."""
        try:
            with self._pid_file.open("r+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def pid(self) -> int | None:
        """Number of its process, while it lives."""
        if not self.is_alive:
            return None
        text = self._pid_file.read_text().strip()
        return int(text) if text.isdigit() else None

    @property
    def console(self) -> str:
        """What the board has written to its console."""
        try:
            return (self.folder / "console.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def qmp(self) -> Qmp:
        """A connection to QEMU itself."""
        return Qmp(self.name, self.folder / "qmp.sock")

    def start(
        self,
        hardware: Hardware,
        kernel: Path,
        disk: Path,
        port: int,
        *,
        label: str,
        state: Path | None = None,
    ) -> None:
        """Starts QEMU, with the first file system in ``initrd`` of its folder.

        Args:
            hardware: What to emulate.
            kernel: Its kernel.
            disk: Its disk, in the qcow2 format; written to.
            port: Port on the loopback interface that leads to its SSH server.
            label: What the kernel's command line says of the emulation.
            state: Memory of a board of the same hardware that goes on from there.

        Raises:
            PreflightError: If the port is taken, or QEMU does not start.
        """
        require_free(self.name, port)
        for name in ("qmp.sock", "console.sock", "qemu.pid"):
            (self.folder / name).unlink(missing_ok=True)
        command = [*_command(hardware, kernel, disk, port, label), *_incoming(state)]
        try:
            done = subprocess.run(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_START_LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise PreflightError(self.name, f"QEMU does not start in {_START_LIMIT_S:g} s") from error
        if done.returncode != 0:
            raise _start_error(self.name, done.stderr.strip()[-500:] or "it says nothing")

    def go_on(self, limit_s: float = 120.0) -> None:
        """Lets a board run that was started with a saved state, once that is read.

        Raises:
            ConnectionLost: If QEMU cannot read it.
        """
        deadline = time.monotonic() + limit_s
        with self.qmp() as qmp:
            while qmp.execute("query-status")["status"] == "inmigrate":
                if time.monotonic() > deadline:
                    raise ConnectionLost(self.name, f"the saved state was not read within {limit_s:g} s")
                time.sleep(0.02)
            qmp.execute("cont")  # it was paused when it was saved

    def wait_for_ssh(self, port: int, limit_s: float) -> None:
        """Returns when the board's SSH server answers.

        Raises:
            ConnectionLost: If QEMU ends, or the limit passes by the host's clock; with the console's end.
        """
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if not self.is_alive:
                raise ConnectionLost(self.name, "QEMU has ended while the board started")
            if _shows_banner(port, max(0.1, deadline - time.monotonic())):
                return
            time.sleep(_BANNER_PAUSE_S)
        raise ConnectionLost(
            self.name,
            f"the emulated board did not answer within {limit_s:g} s; its console ends:"
            f" {self.console.strip()[-300:]!r}",
        )

    def pause(self) -> None:
        """Stops the board's clock and CPUs; connections stay."""
        with self.qmp() as qmp:
            qmp.execute("stop")

    def resume(self) -> None:
        """Goes on after :meth:`pause`."""
        with self.qmp() as qmp:
            qmp.execute("cont")

    @property
    def is_running(self) -> bool:
        """Whether the board's CPUs run: alive and not paused."""
        if not self.is_alive:
            return False
        with self.qmp() as qmp:
            return bool(qmp.execute("query-status")["running"])

    @property
    def resident_bytes(self) -> int:
        """Memory of this host that it takes (proc(5)); 0 if it does not run."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        return 0

    def squeeze(self, full_bytes: int, left_bytes: int, limit_s: float = 3.0) -> None:
        """Takes memory from the running board, down to ``left_bytes`` if it can spare it, and gives it back.

        This host then has what the board had once touched and did not need: what is free there, and copies
        of its disk.  A board that is short of memory on purpose is left alone.

        Raises:
            ConnectionLost: If QEMU has gone.
        """
        with self.qmp() as qmp:
            if qmp.execute("query-balloon")["actual"] != full_bytes:
                return
            for wanted_bytes in (left_bytes, full_bytes):
                qmp.execute("balloon", value=wanted_bytes)
                deadline = time.monotonic() + limit_s
                while time.monotonic() < deadline and qmp.execute("query-balloon")["actual"] != wanted_bytes:
                    time.sleep(0.02)

    def save(self, path: Path, limit_s: float = 120.0) -> None:
        """Writes the board's memory to a file; it stays paused afterwards.

        Raises:
            ConnectionLost: If QEMU fails to, or takes too long.
        """
        with self.qmp() as qmp:
            qmp.execute("stop")
            qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            qmp.execute("migrate", uri=f"exec:cat > {shlex.quote(str(path))}")
            deadline = time.monotonic() + limit_s
            while time.monotonic() < deadline:
                status = qmp.execute("query-migrate").get("status")
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    break
                time.sleep(0.02)
        raise ConnectionLost(self.name, f"QEMU could not save the board's state to {path}: {status}")

    def quit(self) -> None:
        """Pulls the board's plug: its disk has what was written there; does nothing if it does not run."""
        # QEMU itself goes in good order, for it holds back parts of the disk's file that a kill would lose.
        with contextlib.suppress(BoardError), self.qmp() as qmp:
            qmp.execute("quit")
            self._await_end()
        self.kill()

    def kill(self) -> None:
        """Ends QEMU at once, and its disk is of no use any more; does nothing if it does not run."""
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._await_end()

    def _await_end(self) -> None:
        deadline = time.monotonic() + _END_LIMIT_S
        while self.is_alive and time.monotonic() < deadline:
            time.sleep(0.01)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "qemu.pid"


def label_of(hardware: Hardware, version: str) -> str:
    """What figures of a board are labelled with, such as ``pi4,qemu-7.2.22,virtual-time``."""
    return f"{hardware.profile.name},qemu-{version},{hardware.clock}-time"


def free_port() -> int:
    """A port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free(name: str, port: int) -> None:
    """Refuses a port that is taken.

    Raises:
        PreflightError: With the remedy.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PreflightError(
                name,
                f"port {port}, through which the emulated board is reached, is taken ({error.strerror}); end"
                f" what uses it, or give the board another one: boardwise devices remove {name}, then"
                " boardwise devices emulate",
            ) from error


def _command(hardware: Hardware, kernel: Path, disk: Path, port: int, label: str) -> list[str]:
    recipe, profile = hardware.recipe, hardware.profile
    several = hardware.clock == "wall" and hardware.cpus > 1
    acceleration = f"tcg,tb-size={_TRANSLATED_MB},thread={'multi' if several else 'single'}"
    text = f"console={recipe.console} quiet panic=-1 boardwise.emulated={label}"
    virtual = ["-icount", "shift=1,sleep=on,align=off"] if hardware.clock == "virtual" else []
    return [
        find(recipe.emulator) or recipe.emulator,
        *("-machine", recipe.machine_options, "-cpu", profile.cpu, "-smp", str(hardware.cpus)),
        *("-m", f"{profile.memory_bytes >> 20}M", "-accel", acceleration, *virtual),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(kernel), "-initrd", "initrd", "-append", text),
        *("-drive", f"file={_comma(disk)},format=qcow2,if=none,id=disk0,cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk0"),
        *("-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:{HOST}:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
        *("-device", "virtio-rng-pci", "-device", "virtio-balloon-pci,id=balloon0"),
        *("-chardev", "socket,id=serial0,path=console.sock,server=on,wait=off,logfile=console.log"),
        *("-serial", "chardev:serial0", "-qmp", "unix:qmp.sock,server=on,wait=off"),
        *("-pidfile", "qemu.pid", "-daemonize"),
    ]


def _incoming(state: Path | None) -> Sequence[str]:
    return [] if state is None else ["-incoming", f"exec:cat {shlex.quote(str(state))}"]


def _comma(path: Path) -> str:
    """A file name inside one of QEMU's comma-separated options."""
    return str(path).replace(",", ",,")


def _start_error(name: str, said: str) -> PreflightError:
    if "No space left" in said:
        return BoardDiskFull(name, f"this host's disk is full: {said}")
    return PreflightError(name, f"QEMU does not start: {said}")


def _shows_banner(port: int, limit_s: float) -> bool:
    # The host side accepts before the board does; only the banner tells that somebody is there.
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0) as probe:
        probe.settimeout(min(limit_s, 5.0))
        return probe.recv(64).startswith(b"SSH-")
    return False
