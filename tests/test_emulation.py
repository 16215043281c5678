"""What emulated boards are made of, without booting one."""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from devices.agent.metering import Glitch
from devices.agent.meters import ina3221, rpi_pmic
from devices.device import DeviceEntry
from devices.emulation import cpio, firmware, host_programs, kernel, locking
from devices.emulation.board import EmulatedBoard
from devices.emulation.debian import Package
from devices.emulation.image import Image
from devices.emulation.leftovers import Ownership, clear, end_leftovers
from devices.emulation.looks import PMIC_POWER, first_files, tree
from devices.emulation.looks import shown as look
from devices.emulation.machine import free_port, require_free
from devices.emulation.places import CACHE, alone, board_folder, emulation_folder
from devices.emulation.power_model import (
    PowerModel,
    State,
    constant,
    energy_j,
    heat,
    ramp,
    sensor_gap,
    states,
)
from devices.emulation.recipe import profile, profiles, recipes
from devices.emulation.resting import turn
from devices.power_switch import PowerSwitch
from devices.wheels import runtimes_for
from harness import cli
from harness.config import switch_of
from results.errors import ConfigError, PreflightError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def packages(**versions: str) -> tuple[Package, ...]:
    return tuple(
        Package(name.replace("_", "-"), version, f"{name}_{version}_arm64.deb", "0" * 64)
        for name, version in versions.items()
    )


# --------------------------------------------------------------------------- recipes and profiles


def test_every_profile_has_a_recipe_and_looks() -> None:
    assert {"pi3", "pi4", "pi5", "zero2", "armv7"} <= profiles().keys()
    for one in profiles().values():
        recipe = recipes()[one.recipe]
        assert recipe.runtimes
        assert "(emulated)" in tree(one, 1)["proc/device-tree/model"]
        assert one.clocks_hz[0] < one.clocks_hz[1]


def test_an_unknown_profile_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pi4'"):
        profile("p4")


def test_a_recipes_python_is_read_from_its_packages_and_has_its_runtimes() -> None:
    arm64, armhf = recipes()["debian-12-arm64"], recipes()["debian-12-armhf"]
    found = locking.interpreter_of(
        arm64, packages(**{"python3.11-minimal": "3.11.2-6+deb12u5", "libc6": "2.36-9+deb12u10"})
    )
    assert found.title == "Python 3.11.2 on aarch64 with glibc 2.36"
    assert set(runtimes_for(found)) == set(arm64.runtimes)
    found = locking.interpreter_of(
        armhf,
        packages(**{"python3.11-minimal": "3.11.2-6", "libc6": "2.36-9", "python3-numpy": "1:1.24.2-1"}),
    )
    assert found.numpy == "1.24.2"
    assert set(runtimes_for(found)) == set(armhf.runtimes) == {"tflite"}


def test_a_lock_file_comes_back_as_it_was_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    recipe = recipes()["debian-12-arm64"]
    lock = locking.Lock(packages(bash="5.2"), (), locking.wanted(recipe))
    assert locking.read(tmp_path, recipe) is None
    locking.write(locking.path(tmp_path, recipe), lock)
    assert locking.read(tmp_path, recipe) == lock
    more = replace(recipe, packages=(*recipe.packages, "grep"))
    assert locking.read(tmp_path, more) is None, "it lacks what the recipe asks for now"
    locking.path(tmp_path, recipe).write_text('{"packages": 3}')
    with pytest.raises(ConfigError, match=r"not a lock file.*--rebuild"):
        locking.read(tmp_path, recipe)


# --------------------------------------------------------------------------- archives and modules


def test_archives_are_read_back_by_cpio_itself(tmp_path: Path) -> None:
    archive = cpio.pack(cpio.with_parents([cpio.file("a/b/c", b"text"), cpio.link("a/d", "/etc")]))
    assert len(archive) % 512 == 0
    program = shutil.which("busybox") or shutil.which("cpio")
    assert program, "neither busybox nor cpio is installed"
    command = [program, "cpio", "-id"] if program.endswith("busybox") else [program, "-id", "--quiet"]
    subprocess.run(command, cwd=tmp_path, input=archive, check=True, capture_output=True)
    assert (tmp_path / "a/b/c").read_text() == "text"
    assert (tmp_path / "a/d").readlink() == Path("/etc")


def test_the_tree_of_a_profile_follows_at_a_multiple_of_four(tmp_path: Path) -> None:
    image = Image(tmp_path, recipes()["debian-12-arm64"], "0")
    image.first_files.write_bytes(b"12345")
    both = first_files(image, profile("pi4"), 1)
    assert both[:8] == b"12345\0\0\0"
    assert both[8:14] == b"070701"


def test_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    folder = tmp_path / "lib/modules/6.1"
    folder.mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/virtio.ko\n")
    for name, depends in {
        "virtio_net": "net-failover,virtio",
        "net_failover": "failover",
        "failover": "",
    }.items():
        (folder / f"{name.replace('_', '-')}.ko").write_bytes(b"\0depends=" + depends.encode() + b"\0")
    names = [name for name, _ in kernel.modules_of(tmp_path, ["virtio_net", "failover"])]
    assert names == ["failover", "net_failover", "virtio_net"]
    with pytest.raises(ConfigError, match="no module 'ext9'"):
        kernel.modules_of(tmp_path, ["ext9"])


# --------------------------------------------------------------------------- the host


def test_missing_programs_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"apt-get": "/usr/bin/apt-get"}
    monkeypatch.setattr(host_programs, "find", there.get)
    with pytest.raises(
        ConfigError, match=r"sudo apt-get install debian-archive-keyring e2fsprogs qemu-utils$"
    ):
        host_programs.require(["qemu-img", "mke2fs", "apt-get"], "/nonexistent")
    there.clear()
    with pytest.raises(ConfigError, match="works on Debian, Ubuntu and their relatives only"):
        host_programs.require(["qemu-img"])


@pytest.mark.parametrize(
    ("said", "message"), [("QEMU emulator version 6.2.0", "QEMU 6.2.0.*7.0 or newer"), ("?", "says '\\?'")]
)
def test_an_old_qemu_is_refused(
    said: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-system-arm"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    host_programs.qemu_version.cache_clear()
    with pytest.raises(ConfigError, match=message):
        host_programs.qemu_version("qemu-system-arm")
    host_programs.qemu_version.cache_clear()


def test_everything_lies_where_the_variable_says(cache: Path) -> None:
    assert emulation_folder() == cache / "emulation"


def test_who_waits_for_another_process_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    lock = tmp_path / "lock"
    script = (
        f"import fcntl,time; f=open({str(lock)!r},'a'); fcntl.flock(f, fcntl.LOCK_EX); print('x',flush=True);"
        "time.sleep(0.5)"
    )
    with subprocess.Popen(["python3", "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        with alone(lock, said.append, "builds an image"):
            assert said == ["another process builds an image; waiting for it"]


def test_no_more_boards_run_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with turn(), (emulation_folder() / "turns" / "0").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with turn():
        pass


def test_a_board_that_waits_for_its_turn_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    said: list[str] = []

    def second() -> None:
        with turn(said.append):
            said.append("its turn")

    thread = threading.Thread(target=second)
    with turn():
        thread.start()
        while not said:
            time.sleep(0.001)
    thread.join()
    assert said == ["as many emulated boards run as this host has cores (1); waiting for a turn", "its turn"]


def test_a_taken_port_is_refused_with_the_remedy() -> None:
    import socket

    port = free_port()
    require_free("pi4", port)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PreflightError, match=f"{port}.*is taken"):
        require_free("pi4", port)


# --------------------------------------------------------------------------- switch and command line


def entry(**options: object) -> DeviceEntry:
    switch = {"kind": "qemu", "profile": "pi4", **options}
    return DeviceEntry("pi4", address="pi@127.0.0.1:2222", power_switch=switch)  # type: ignore[arg-type]


def test_the_switch_comes_from_the_lab_file_and_checks_its_options() -> None:
    assert isinstance(switch_of(entry()), PowerSwitch)
    assert switch_of(DeviceEntry("a", address="a")) is None
    with pytest.raises(ConfigError, match="unknown option 'clocks'; did you mean 'clock'"):
        switch_of(entry(clocks="wall"))
    with pytest.raises(ConfigError, match="4 CPUs need clock = 'wall'"):
        switch_of(entry(cpus=4))
    with pytest.raises(ConfigError, match="clock must be 'virtual' or 'wall'"):
        switch_of(entry(clock="sun"))
    with pytest.raises(ConfigError, match="a port in its address"):
        switch_of(DeviceEntry("b", address="pi@b", power_switch={"kind": "qemu", "profile": "pi4"}))


def test_what_does_not_run_can_be_stopped_and_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lab = ["--lab", str(tmp_path / "lab.toml")]
    assert cli.main(["devices", "emulate", "pi4", "--stop", *lab]) == 0
    assert "pi4 does not run" in capsys.readouterr().err
    assert cli.main(["devices", "emulate", "--list", *lab]) == 0
    assert "image not built yet" in capsys.readouterr().out
    assert cli.main(["devices", "emulate", "pi4", "--console", *lab]) == 1
    assert "does not run; start it" in capsys.readouterr().err
    assert not EmulatedBoard("pi4", "pi4").is_alive
    assert not board_folder("pi4").joinpath("qemu.pid").exists()


def test_a_name_that_is_another_devices_is_not_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text('[devices.pi4]\naddress = "pi@desk"\n')
    assert cli.main(["devices", "emulate", "pi4", "--lab", str(lab)]) == 1
    assert "another device, at pi@desk; choose another name with --name" in capsys.readouterr().err


# --------------------------------------------------------------------------- sensors

MODEL = PowerModel(2.0, 6.0, 5.0, 50.0, 25.0, 80.0, "VDD_IN")


def test_a_constant_load_ends_at_the_temperature_of_its_power() -> None:
    shown = list(states(MODEL, constant(1.0, 1000.0)))
    assert shown[0].temperature_c == 25.0 + 5.0 * 2.0
    assert shown[-1].temperature_c == pytest.approx(25.0 + 5.0 * 6.0, abs=1e-3)
    after = next(s for s in shown if s.at_s >= 50.0)
    assert after.temperature_c == pytest.approx(55.0 - 20.0 * math.exp(-1), abs=0.05), "one time constant"
    assert energy_j(shown) == pytest.approx(6.0 * 1000.0)


def test_the_energy_of_a_ramp_is_that_of_its_mean() -> None:
    assert energy_j(list(states(MODEL, ramp(0.0, 1.0, 10.0)))) == pytest.approx(10.0 * (2.0 + 6.0) / 2)


def test_hot_air_makes_it_throttle_and_recover() -> None:
    shown = list(states(MODEL, heat(55.0, 600.0)))
    assert not shown[0].throttled
    hot = [s for s in shown if s.throttled]
    assert hot
    assert hot[0].power_w == 2.0 + 0.5 * 4.0
    assert max(s.temperature_c or 0.0 for s in shown) < 80.0 + 0.2
    assert any(a.throttled and not b.throttled for a, b in itertools.pairwise(shown))


def test_a_gap_silences_the_sensors_for_its_time_alone() -> None:
    shown = list(states(MODEL, sensor_gap(0.5, 3.0, (1.0, 2.0))))
    silent = [s.at_s for s in shown if s.power_w is None]
    assert silent[0] == pytest.approx(1.0)
    assert silent[-1] == pytest.approx(1.9)
    files = look(profile("orin-nano"), 1, next(s for s in shown if s.power_w is None))
    assert [path for path, text in files.items() if text is None] == [
        "sys/class/thermal/thermal_zone0/temp",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0/in1_input",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0/curr1_input",
    ]


def test_a_load_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1, got 2"):
        list(states(MODEL, constant(2.0, 1.0)))


def test_the_agents_own_meter_reads_the_tree(tmp_path: Path) -> None:
    one = profile("orin-nano")
    for path, text in tree(one, 1).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    meter = ina3221.open_meter(str(tmp_path), {"rails": ""})
    try:
        samples = [sample for _ in range(3) for sample in meter.read()]
    finally:
        meter.close()
    assert samples
    assert all(watts == pytest.approx((one.power.idle_w,), rel=1e-3) for _, watts in samples)


# --------------------------------------------------------------------------- leftovers


def machine_in(folder: Path) -> subprocess.Popen[bytes]:
    """A process that holds the lock on its pid file, as QEMU does."""
    folder.mkdir(parents=True)
    script = (
        "import fcntl, os, sys, time; f = open('qemu.pid', 'w'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "f.write(str(os.getpid())); f.flush(); print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(["python3", "-c", script], cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def owner_of(folder: Path) -> subprocess.Popen[bytes]:
    """A process that owns a board until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from devices.emulation.leftovers import Ownership;"
        "o = Ownership(Path(sys.argv[1])); o.take(); print(flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_boards_of_killed_processes_are_ended_and_no_others(cache: Path) -> None:
    machines = {name: machine_in(board_folder(name)) for name in ("ours", "theirs", "lasting")}
    ours = Ownership(board_folder("ours"))
    ours.take()
    again = Ownership(board_folder("ours"))
    again.take()
    assert (ours.is_taken, again.is_taken) == (True, False)
    with owner_of(board_folder("theirs")) as other, ExitStack() as stack:
        for process in machines.values():
            stack.enter_context(process)
        for process in (other, *machines.values()):
            stack.callback(process.kill)
        assert end_leftovers() == []
        other.kill()
        other.wait()
        with alone(board_folder("theirs") / "lock"):
            assert end_leftovers() == [], "somebody starts it now"
        assert end_leftovers() == ["theirs"]
        assert machines["theirs"].wait(timeout=10) == -signal.SIGKILL
        assert end_leftovers() == []
        assert machines["ours"].poll() is machines["lasting"].poll() is None
        ours.give_up()
        assert not (board_folder("ours") / "owner").exists()


def test_what_a_killed_builder_left_running_is_ended(tmp_path: Path) -> None:
    with machine_in(tmp_path / "work" / "first") as process:
        clear(tmp_path / "work", tmp_path / "work" / "first")
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert not (tmp_path / "work").exists()
    clear(tmp_path / "work", tmp_path / "work" / "first")


def asked_of_firmware(what: int, body: bytes = b"", shown: str = "") -> bytes:
    """The body of the firmware's reply to a request of the kernel."""
    request = firmware.IN_HEADER.pack(firmware.IN_HEADER.size + len(body), what, 7, 0, 0, 0, 0, 0) + body
    reply = firmware.replied(request, shown, 2.7)
    assert reply is not None
    assert firmware.OUT_HEADER.unpack_from(reply) == (len(reply), 0, 7)
    return reply[firmware.OUT_HEADER.size :]


def mailbox(shown: list[str]) -> Callable[[int, int, bytearray], None]:
    """What the kernel makes of an ioctl: it asks where the memory is, then brings it and takes it back."""

    def ioctl(descriptor: int, number: int, message: bytearray) -> None:
        given = firmware.IOCTL_IN.pack(1, 0, number, 4096, 0, 0)
        retry = asked_of_firmware(firmware.IOCTL, given)
        assert firmware.IOCTL_OUT.unpack_from(retry)[1:] == (firmware.IOCTL_RETRY, 1, 1)
        assert retry[firmware.IOCTL_OUT.size :] == 2 * firmware.IOVEC.pack(4096, len(message))
        given = firmware.IOCTL_IN.pack(1, 0, number, 4096, len(message), len(message))
        reply = asked_of_firmware(firmware.IOCTL, given + bytes(message), shown[0])
        message[:] = reply[firmware.IOCTL_OUT.size :]

    return ioctl


def test_the_agents_own_meter_reads_the_firmware_of_a_pi_5() -> None:
    shown = ["2.7\n"]
    box = rpi_pmic.Mailbox("/dev/null", mailbox(shown))
    meter = rpi_pmic.Pmic(box.ask, box.close, 1.0, 0.0)
    try:
        ((_, rest),) = meter.read()
        shown[0] = "8.8\n"
        ((_, busy),) = meter.read()
        assert (rest[0], busy[0]) == (pytest.approx(2.7, rel=1e-6), pytest.approx(8.8, rel=1e-6))
        changed = [name for name, a, b in zip(meter.facts.channels, rest, busy, strict=True) if b > a + 0.01]
        assert changed == ["total", firmware.CORES]
        shown[0] = ""
        with pytest.raises(Glitch, match="no answer from the power controller"):
            meter.read()
        with pytest.raises(Glitch, match="not registered"):
            box.ask("version")
    finally:
        meter.close()


def test_the_firmware_follows_the_kernels_protocol() -> None:
    begun = asked_of_firmware(firmware.CUSE_INIT)
    assert struct.unpack_from("=2I", begun) >= (7, 11)
    assert begun[firmware.INIT_OUT.size :] == b"DEVNAME=vcio_gencmd\0"
    assert len(asked_of_firmware(firmware.OPEN)) == 16
    assert asked_of_firmware(firmware.RELEASE) == b""
    header = firmware.IN_HEADER.pack(40, firmware.INTERRUPT, 7, 0, 0, 0, 0, 0)
    assert firmware.replied(header, "", 2.7) is None
    unknown = firmware.replied(firmware.IN_HEADER.pack(40, 15, 7, 0, 0, 0, 0, 0), "", 2.7)
    assert unknown is not None
    assert firmware.OUT_HEADER.unpack(unknown)[1] == -errno.ENOSYS


def test_only_a_pi_5_shows_a_power_controller() -> None:
    assert [one.name for one in profiles().values() if one.power.pmic] == ["pi5"]
    assert float(tree(profile("pi5"), 1)[PMIC_POWER]) == profile("pi5").power.idle_w
    assert PMIC_POWER not in tree(profile("pi4"), 1)
    silent = look(profile("pi5"), 1, State(0.0, None, None, False))
    assert silent[PMIC_POWER] is None
