"""The first boot of a new image: shows that its runtimes work and leaves compiled files behind.

What it changes stays in the image: the disk that was booted replaces the one that was built.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devices.connection import Connection
from devices.device import DeviceEntry, connect
from devices.emulation import locking, looks, machine
from devices.emulation.host_programs import find, qemu_version
from devices.emulation.image import DIRECTORY, FIRST, USER, Image
from devices.emulation.places import cache_folder
from devices.emulation.recipe import profiles
from devices.provision import provision
from results.errors import ConfigError, ConnectionLost

BOOT_LIMIT_S = 600.0
_COMPILE_LIMIT_S = 900.0

# What the agent, provisioning and runtimes import of Python's own; only root may write those files.
_COMPILE = (
    "import sys; sys.path.insert(0, sys.argv[1]) if len(sys.argv) > 1 else None\n"
    "import array, ctypes, fcntl, functools, gc, hashlib, importlib.metadata, json, resource, select, "
    "selectors, signal, socket, stat, tempfile, threading, zipfile, shutil, struct, subprocess, time,"
    " pathlib, random, inspect, logging, typing, numbers, platform, secrets, pickle, datetime, warnings\n"
    "import numpy"
)


def entry(name: str, image: Image, folder: Path, port: int, *, user: str = USER) -> DeviceEntry:
    """How a board of an image is reached; its host key is pinned in ``known_hosts`` of its folder."""
    known_hosts, config, identity = folder / "known_hosts", folder / "ssh_config", folder / "user_key"
    # Copied, so that the lab file stays right when the image is built anew.
    identity.touch(mode=0o600)
    identity.write_bytes(image.identity_file.read_bytes())
    known_hosts.write_text(f"[{machine.HOST}]:{port} {image.host_key}\n")
    # Nothing of the user's own configuration concerns a board of ours.
    config.write_text("Host *\n  IdentitiesOnly yes\n  IdentityAgent none\n  GlobalKnownHostsFile none\n")
    return DeviceEntry(
        name,
        "ssh",
        f"{user}@{machine.HOST}:{port}",
        directory=DIRECTORY,
        identity_file=str(identity),
        known_hosts=str(known_hosts),
        ssh_config=str(config),
    )


@contextmanager
def cold_booted(image: Image, profile_name: str, folder: Path, disk: Path) -> Iterator[DeviceEntry]:
    """A board of the image while it lasts, booted from ``disk``; in wall time, which suits work best."""
    profile = profiles()[profile_name]
    hardware = machine.Hardware(image.recipe, profile, "wall", 1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "initrd").write_bytes(looks.first_files(image, profile, 1))
    board = machine.Machine(f"{image.recipe.name}-being-built", folder)
    port = machine.free_port()
    label = machine.label_of(hardware, qemu_version(image.recipe.emulator))
    board.start(hardware, image.kernel, disk, port, label=label)
    try:
        board.wait_for_ssh(port, BOOT_LIMIT_S)
        yield entry("emulated", image, folder, port)
    finally:
        board.kill()


def finish(image: Image, say: Callable[[str], None]) -> None:
    """Boots an image, has every runtime run a model, and takes over the disk as it is then.

    Raises:
        ProvisionError: If a runtime does not work.
        ConnectionLost: If it does not boot.
    """
    say("booting it for the first time")
    profile = next(p.name for p in profiles().values() if p.recipe == image.recipe.name)
    folder = image.folder.parent / FIRST
    folder.mkdir()
    disk = folder / "disk.qcow2"
    overlay(image.disk, disk)
    lock = locking.read_file(image.folder / "lock.json")
    with cold_booted(image, profile, folder, disk) as device:
        _try_runtimes(device, lock, say)
        _compile(device, lock, say)
        _halt(device)
    say("compressing the disk")
    finished = folder / "finished.qcow2"
    _qemu_img("convert", "-q", "-c", "-O", "qcow2", str(disk), str(finished))
    finished.replace(image.disk)


def overlay(base: Path, disk: Path) -> None:
    """A new disk on which writes go, over one that stays as it is."""
    _qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(disk))


def _try_runtimes(device: DeviceEntry, lock: locking.Lock, say: Callable[[str], None]) -> None:
    with connect(device) as connection:
        for brought in lock.runtimes:
            cache = cache_folder() / "wheels"
            provision(connection, device, brought.runtime, version=brought.version, cache=cache, say=say)


def _compile(device: DeviceEntry, lock: locking.Lock, say: Callable[[str], None]) -> None:
    say("compiling Python's own modules")
    folders = [f"/home/{USER}/{DIRECTORY}/1/runtimes/{b.package}-{b.version}" for b in lock.runtimes[:1]]
    with connect(as_root(device)) as connection:
        _must(connection, ["python3", "-c", _COMPILE, *folders], _COMPILE_LIMIT_S)
        _must(connection, ["chown", "-R", f"{USER}:{USER}", f"/home/{USER}"], 60.0)


def _halt(device: DeviceEntry) -> None:
    """Everything on the disk, which stays readable only."""
    with connect(as_root(device)) as connection:
        _must(connection, ["rm", "-rf", f"/home/{USER}/{DIRECTORY}/1/incoming"], 60.0)
        _must(connection, ["busybox", "fstrim", "/"], 120.0)
        _must(connection, ["sh", "-c", "sync; echo u > /proc/sysrq-trigger; sleep 1; sync"], 120.0)


def as_root(device: DeviceEntry) -> DeviceEntry:
    """The same board, logged in to as root."""
    import dataclasses

    return dataclasses.replace(device, address=device.address.replace(f"{USER}@", "root@", 1))


def _must(connection: Connection, argv: list[str], limit_s: float) -> None:
    done = connection.run(argv, limit_s=limit_s)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise ConnectionLost(connection.device, f"{argv[0]} failed on the emulated board: {said}")


def _qemu_img(*arguments: str) -> None:
    done = subprocess.run(
        [find("qemu-img") or "qemu-img", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ConfigError(f"qemu-img {arguments[0]} failed: {done.stderr.strip()[-300:]}")
