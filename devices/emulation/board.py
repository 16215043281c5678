"""An emulated board: booted, gone on from a saved state, paused, and made to fail as boards do.

Everything that lasts is in its folder, so any process of this host can take hold of a board that another
one has started.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from devices.connection import Completed
from devices.device import DeviceEntry, connect
from devices.emulation import firmware, looks, machine
from devices.emulation.first_boot import BOOT_LIMIT_S, as_root, entry, finish, overlay
from devices.emulation.host_programs import TO_RUN, qemu_version, require
from devices.emulation.image import Image, build
from devices.emulation.leftovers import Ownership, end_leftovers
from devices.emulation.places import alone, board_folder
from devices.emulation.power_model import Script, states
from devices.emulation.recipe import profile, recipes
from devices.emulation.saved_state import key_of, saved_state
from results.errors import BoardError, ConfigError, ConnectionLost

Start = Literal["state", "cold"]

TRIMMED_ABOVE_BYTES = 330_000_000
"""Memory of the host that a board may take: 295 MB with both runtimes loaded, and then 2 MB more per session
for what its kernel keeps of the disk."""

TRIMMED_TO_BYTES = 176 << 20
"""What the board itself needs at rest, with an agent and both runtimes."""

_FEEDER = Path(__file__).with_name("feeder.py")

# Without an environment, by which a connection that ends would find them and end them.
_PLAY = (
    'kill "$(cat /run/feeder.pid)" 2> /dev/null\n'
    "env -i setsid /usr/bin/python3 -I -S /run/feeder.py /run/script.json < /dev/null"
    " > /run/feeder.log 2>&1 &\n"
    "echo $! > /run/feeder.pid"
)

_FIRMWARE = (
    'env -i setsid /usr/bin/python3 -I -S /run/firmware.py "$1" < /dev/null > /run/firmware.log 2>&1 &\n'
    f"tries=0; until [ -e /{looks.PMIC} ] || [ $tries = 200 ]; do sleep 0.05; tries=$((tries + 1)); done\n"
    f"chmod 666 /{looks.PMIC}"
)

_SETTLE = r"""
import fcntl, os, sys
clock, serial, boot, seed = sys.argv[1:]
import time
time.clock_settime(time.CLOCK_REALTIME, float(clock))
with open("/dev/urandom", "r+b", buffering=0) as pool:
    pool.write(bytes.fromhex(seed))
    fcntl.ioctl(pool, 0x5207)  # RNDRESEEDCRNG
root = "/run/board/"
open(root + "proc/device-tree/serial-number", "w").write(serial + "\0")
own = root + "proc/sys/kernel/random"
if os.path.islink(root + "proc/sys"):
    os.unlink(root + "proc/sys")
    os.makedirs(own)
open(own + "/boot_id", "w").write(boot + "\n")
"""


class EmulatedBoard:
    """One emulated board.  Safe to use from several processes of this host.

    Args:
        name: Its name; boards of other names are other units.
        profile_name: Its model.
        clock: How its time passes.
        cpus: Number of CPUs; several need the wall clock.
        say: Told what takes long.

    Raises:
        ConfigError: For an unknown profile, or several CPUs in virtual time.
    """

    def __init__(
        self,
        name: str,
        profile_name: str,
        *,
        clock: machine.Clock = "virtual",
        cpus: int = 1,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if clock not in ("virtual", "wall"):
            raise ConfigError(f"clock must be 'virtual' or 'wall', got {clock!r}")
        if cpus < 1 or (cpus > 1 and clock == "virtual"):
            raise ConfigError(f"{cpus} CPUs need clock = 'wall': virtual time has one CPU")
        self.name = name
        self.hardware = machine.Hardware(
            recipes()[profile(profile_name).recipe], profile(profile_name), clock, cpus
        )
        self.folder = board_folder(name)
        self.machine = machine.Machine(name, self.folder)
        self._ownership = Ownership(self.folder)
        self._trimmed_bytes = 0
        self._say = say

    # ------------------------------------------------------------------ on and off

    def start(
        self, how: Start = "state", *, port: int | None = None, outlives_us: bool = False
    ) -> DeviceEntry:
        """Starts the board unless it runs, and returns when it answers; builds what is missing.

        Boards whose process has gone without stopping them are ended first.

        Args:
            how: ``state``: goes on from a saved state, ready in seconds; ``cold``: boots, with the disk that
                it had if its plug was pulled.
            port: Port on this host that leads to it; by default the one it had, or a free one.
            outlives_us: Whether it stays when this process has ended; one that ran already does.

        Raises:
            ConfigError: If this host cannot emulate it.
            PreflightError: If the port is taken.
            ConnectionLost: If it does not boot.
        """
        require([*TO_RUN])
        for name in end_leftovers():
            self._say(f"ended {name}, which a process had left behind")
        image = self.image()
        with alone(self.folder / "lock", self._say, f"starts {self.name}"):
            if self._runs_as_wanted(port):
                self.machine.resume()
            else:
                self._bring_up(image, how, port, outlives_us)
        return self._entry(image)

    def image(self, *, rebuild: bool = False) -> Image:
        """Its image, built if need be."""
        return build(self.hardware.recipe, finish, self._say, rebuild=rebuild)

    def stop(self) -> None:
        """Ends the board; what was written to its disk is gone.  May be called twice."""
        with alone(self.folder / "lock"):
            self.machine.kill()
            for file in ("disk.qcow2", "initrd", "qmp.sock", "console.sock", "qemu.pid"):
                (self.folder / file).unlink(missing_ok=True)
            self._ownership.give_up()

    def remove(self) -> None:
        """Ends the board and forgets everything about it."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_alive(self) -> bool:
        """Whether it runs or is paused."""
        return self.machine.is_alive

    @property
    def is_ours(self) -> bool:
        """Whether it was started here, to last no longer than this process."""
        return self._ownership.is_taken

    @property
    def console(self) -> str:
        """What it has written to its console."""
        return self.machine.console

    @property
    def port(self) -> int:
        """Port on this host that leads to its SSH server.

        Raises:
            ConfigError: If it was never started.
        """
        port = self._known_port()
        if port is None:
            raise ConfigError(f"the emulated board {self.name} was never started")
        return port

    @property
    def entry(self) -> DeviceEntry:
        """The device for the lab file.

        Raises:
            ConfigError: If it was never started.
        """
        return self._entry(self.image())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # ------------------------------------------------------------------ faults

    def pause(self) -> None:
        """Freezes it: connections stay open, nothing answers; takes no time of the host."""
        self.machine.pause()

    def resume(self) -> None:
        """Goes on after :meth:`pause`."""
        self.machine.resume()

    def trim(self) -> None:
        """Gives this host what the running board's memory holds beyond its need, once that is much.

        It takes some of the board's own time, so it belongs between sessions.
        """
        if self.machine.resident_bytes > max(TRIMMED_ABOVE_BYTES, 1.1 * self._trimmed_bytes):
            self.machine.squeeze(self.hardware.profile.memory_bytes, TRIMMED_TO_BYTES)
            self._trimmed_bytes = self.machine.resident_bytes

    def power_cut(self) -> None:
        """Pulls the plug: what was not on the disk is lost; ``start("cold")`` boots it again."""
        # Written first: as soon as it is gone, whoever uses it may start it again.
        self._write(port=self.port, key=self._known("key"), cut=True)
        self.machine.quit()

    def power_cycle(self) -> None:
        """Takes its power away and gives it back, and returns when it answers again."""
        image = self.image()
        with alone(self.folder / "lock", self._say, f"starts {self.name}"):  # so that nobody else starts it
            self.power_cut()
            self._bring_up(image, "cold", None, outlives_us=not self.is_ours)

    def limit_memory(self, size_bytes: int) -> None:
        """Takes memory from it, down to ``size_bytes``; its full size gives all back."""
        with self.machine.qmp() as qmp:
            qmp.execute("balloon", value=size_bytes)

    def cut_network(self) -> None:
        """Unplugs its network cable."""
        self._set_link(False)

    def mend_network(self) -> None:
        """Plugs it in again, and takes away what :meth:`slow_network` did."""
        self._set_link(True)
        with suppress(BoardError), self.machine.qmp() as qmp:
            qmp.execute("object-del", id="slow0")

    def slow_network(self, interval_s: float) -> None:
        """Holds packets back and lets them through every ``interval_s`` of the board's time."""
        with self.machine.qmp() as qmp:
            arguments = {"qom-type": "filter-buffer", "id": "slow0", "netdev": "net0"}
            qmp.execute("object-add", **arguments, interval=int(1e6 * interval_s))

    def fill_disk(self, leave_bytes: int = 0) -> None:
        """Fills its disk but for ``leave_bytes``."""
        script = (
            'free=$(df -P -k / | busybox awk "NR==2 {print \\$4}"); size=$((free * 1024 - $1));'
            ' [ "$size" -le 0 ] || fallocate -l "$size" /var/lib/full; sync'
        )
        self.root("sh", "-c", script, "sh", str(leave_bytes))

    def free_disk(self) -> None:
        """Takes back what :meth:`fill_disk` did."""
        self.root("rm", "-f", "/var/lib/full")

    def play(self, script: Script) -> None:
        """Shows a script on its sensors, by the board's own clock; returns when that has begun.

        A script costs the board a little time at each step; figures to be compared need the same one.

        Raises:
            ConfigError: If the script asks for a load that there is not.
        """
        rows: list[tuple[float, dict[str, str | None]]] = []
        known: dict[str, str | None] = {}
        for state in states(self.hardware.profile.power, script):
            files = looks.shown(self.hardware.profile, self.hardware.cpus, state)
            changed = {f"{looks.ROOT}/{p}": t for p, t in files.items() if p not in known or known[p] != t}
            known |= files
            rows.append((state.at_s, changed))
        data = json.dumps([row for row in rows if row[1]])
        with connect(as_root(self._entry(self.image()))) as connection:
            connection.put(_FEEDER.read_bytes(), "/run/feeder.py")
            connection.put(data.encode(), "/run/script.json")
        self.root("sh", "-c", _PLAY)

    def skew_clock(self, by_s: float) -> None:
        """Sets its clock wrong by ``by_s``."""
        code = f"import time; time.clock_settime(time.CLOCK_REALTIME, {time.time() + by_s!r})"
        self.root("python3", "-I", "-S", "-c", code)

    def root(self, *argv: str, limit_s: float = 120.0) -> Completed:
        """Runs a command on it as root.

        Raises:
            ConnectionLost: If it fails, or cannot be reached.
        """
        with connect(as_root(self._entry(self.image()))) as connection:
            done = connection.run(argv, limit_s=limit_s)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise ConnectionLost(self.name, f"{argv[0]} failed on the emulated board: {said}")
        return done

    # ------------------------------------------------------------------ inside

    def _bring_up(self, image: Image, how: Start, port: int | None, outlives_us: bool) -> None:
        self.machine.kill()
        chosen, key = port or self._known_port() or machine.free_port(), key_of(image, self.hardware)
        keeps_disk = how == "cold" and self._known("cut") is True and self._known("key") == key
        self._write(port=chosen, key=key)
        if not outlives_us:
            self._ownership.take()
        try:
            self._start(image, how, chosen, keeps_disk)
            self._settle(image)
        except BaseException:
            self.machine.kill()
            raise

    def _start(self, image: Image, how: Start, port: int, keeps_disk: bool) -> None:
        disk = self.folder / "disk.qcow2"
        label = machine.label_of(self.hardware, qemu_version(image.recipe.emulator))
        if how == "cold":
            image.check()
            initrd = looks.first_files(image, self.hardware.profile, self.hardware.cpus)
            (self.folder / "initrd").write_bytes(initrd)
            if not keeps_disk:
                overlay(image.disk, disk)
            self.machine.start(self.hardware, image.kernel, disk, port, label=label)
        else:
            state = saved_state(image, self.hardware, self._say)
            (self.folder / "initrd").write_bytes(state.first_files.read_bytes())
            overlay(state.disk, disk)
            self.machine.start(self.hardware, image.kernel, disk, port, label=label, state=state.memory)
            self.machine.go_on()
        self.machine.wait_for_ssh(port, BOOT_LIMIT_S)

    def _settle(self, image: Image) -> None:
        """Gives the board what must be its own: the time, randomness, a serial number, a boot of its own."""
        serial = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.emulated.boardwise").hex[:16]
        arguments = (repr(time.time()), serial, str(uuid.uuid4()), os.urandom(64).hex())
        with connect(as_root(self._entry(image))) as connection:
            done = connection.run(["python3", "-I", "-S", "-c", _SETTLE, *arguments], limit_s=120.0)
            if done.returncode == 0 and self.hardware.profile.power.pmic:
                connection.put(Path(firmware.__file__).read_bytes(), "/run/firmware.py")
                rest = str(self.hardware.profile.power.idle_w)
                done = connection.run(["sh", "-c", _FIRMWARE, "sh", rest], limit_s=120.0)
        if done.returncode != 0:
            raise ConnectionLost(self.name, f"cannot be set up: {done.stderr[-300:]!r}")

    def _set_link(self, up: bool) -> None:
        with self.machine.qmp() as qmp:
            qmp.execute("set_link", name="net0", up=up)

    def _entry(self, image: Image) -> DeviceEntry:
        switch = {"kind": "qemu", "profile": self.hardware.profile.name, "clock": self.hardware.clock}
        if self.hardware.cpus > 1:
            switch["cpus"] = self.hardware.cpus  # type: ignore[assignment]
        made = entry(self.name, image, self.folder, self.port)
        return dataclasses.replace(made, root=looks.ROOT, power_switch=switch)

    def _known_port(self) -> int | None:
        port = self._known("port")
        return port if isinstance(port, int) else None

    def _runs_as_wanted(self, port: int | None) -> bool:
        return (
            self.machine.is_alive
            and self._known("key") == key_of(self.image(), self.hardware)
            and port in (None, self._known("port"))
        )

    def _known(self, key: str) -> object:
        try:
            return json.loads((self.folder / "board.json").read_text()).get(key)
        except (FileNotFoundError, ValueError):
            return None

    def _write(self, **values: object) -> None:
        new = self.folder / "board.json.new"
        new.write_text(json.dumps(values))
        new.replace(self.folder / "board.json")  # at once: others may read it meanwhile
