"""Saved states: a profile's board just after its start, so that the next one does not have to start.

A saved state belongs to an image, a profile, a clock and a version of QEMU.  Any number of boards go on from
one at the same time, each with a disk of its own over the frozen one; what clones must not share (time,
random numbers, identity) they are given when they go on.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devices.device import connect
from devices.emulation import looks
from devices.emulation.first_boot import BOOT_LIMIT_S, entry, overlay
from devices.emulation.host_programs import qemu_version
from devices.emulation.image import Image, file_hash
from devices.emulation.leftovers import clear
from devices.emulation.machine import Hardware, Machine, free_port, label_of
from devices.emulation.places import alone, emulation_folder
from results.codec import digest
from results.errors import ConnectionLost

VERSION = 3
"""Of how states are made and boards are put together."""

_WARM = "import json, selectors, ctypes, zipfile, subprocess, importlib.metadata"


@dataclass(frozen=True)
class SavedState:
    """A saved state on this host's disk.

    Attributes:
        folder: Its folder.
    """

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk as it was; boards write to overlays of it."""
        return self.folder / "disk.qcow2"

    @property
    def memory(self) -> Path:
        """The memory as it was."""
        return self.folder / "memory"

    @property
    def first_files(self) -> Path:
        """The first file system that it was booted with; a restart of the board needs it again."""
        return self.folder / "initrd"

    @property
    def is_whole(self) -> bool:
        """Whether every file has the hash that it had."""
        try:
            hashes = json.loads((self.folder / "hashes.json").read_text())
            return all(file_hash(self.folder / name) == sha256 for name, sha256 in hashes.items())
        except (OSError, ValueError):
            return False


def key_of(image: Image, hardware: Hardware) -> str:
    """Hash of all that a saved state depends on."""
    version = qemu_version(image.recipe.emulator)
    profile = dataclasses.asdict(hardware.profile)
    return digest([VERSION, image.made, profile, hardware.clock, hardware.cpus, version])[:16]


def saved_state(image: Image, hardware: Hardware, say: Callable[[str], None]) -> SavedState:
    """The saved state of a board, made if need be; one process makes it, others wait.

    Raises:
        ConnectionLost: If the board does not boot.
    """
    kind = f"{hardware.profile.name}-{hardware.clock}-{hardware.cpus}"
    title = f"{kind}-{key_of(image, hardware)}"
    states = emulation_folder() / "states"
    state = SavedState(states / title)
    with alone(states / f"{title}.lock", say, f"boots {hardware.profile.title}"):
        if not state.is_whole:
            shutil.rmtree(state.folder, ignore_errors=True)
            image.check()
            say(f"booting {hardware.profile.title} once, to save its state")
            work = states / f".making-{title}"
            clear(work, work)
            work.mkdir(parents=True)
            try:
                _make(image, hardware, SavedState(work))
                work.rename(state.folder)
                forget_others(states, kind, state.folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return state


def forget_others(folder: Path, kind: str, kept: Path) -> None:
    """Removes what another image, profile or QEMU has left; a board that still runs has its files open."""
    for path in folder.glob(f"{kind}-????????????????"):
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)


def _make(image: Image, hardware: Hardware, state: SavedState) -> None:
    name = f"{hardware.profile.name}-being-saved"
    overlay(image.disk, state.disk)
    state.first_files.write_bytes(looks.first_files(image, hardware.profile, hardware.cpus))
    board, port = Machine(name, state.folder), free_port()
    label = label_of(hardware, qemu_version(image.recipe.emulator))
    board.start(hardware, image.kernel, state.disk, port, label=label)
    try:
        board.wait_for_ssh(port, BOOT_LIMIT_S)
        with connect(entry(name, image, state.folder, port)) as connection:
            done = connection.run(["python3", "-c", _WARM], limit_s=BOOT_LIMIT_S)
            if done.returncode != 0:
                raise ConnectionLost(name, f"Python does not start: {done.stderr[-300:]!r}")
            connection.run(["sync"], limit_s=BOOT_LIMIT_S)
        board.save(state.memory)
    finally:
        board.kill()
    hashes = {path.name: file_hash(path) for path in (state.disk, state.memory, state.first_files)}
    (state.folder / "hashes.json").write_text(json.dumps(hashes))
