"""Builds the disk images of emulated boards, as any user, and keeps them by the hash of what went in.

Debian packages (signatures checked by apt) and wheels (hashes checked, the same code that provisions real
boards) are unpacked, never run; ``mke2fs`` under ``fakeroot`` makes the disk.  Then the image is booted once:
each runtime runs a small model, Python writes its compiled files, and what came of it is the image.
Host keys and the key that is let in are made here, so a board's key is known before its first connection.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.emulation import kernel, locking
from devices.emulation.debian import PrivateApt
from devices.emulation.host_programs import TO_BUILD, find, require
from devices.emulation.leftovers import clear
from devices.emulation.places import alone, cache_folder, emulation_folder
from devices.emulation.recipe import GUEST, Recipe
from devices.unpack import unpack
from results.codec import digest
from results.errors import ConfigError

VERSION = 1
"""Of this module: another number makes other images of the same recipe."""

NEEDED_BYTES = 3 << 30
FIRST = "first"
"""Folder in which a new image is booted, beside it."""

USER = "pi"
DIRECTORY = ".cache/boardwise"
"""Of Boardwise on the board, as :class:`devices.device.DeviceEntry` has it by default."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """A built image: files in a folder that is never written again.

    Attributes:
        folder: The folder.
        recipe: What it was built from.
        key: Hash of everything that went in.
    """

    folder: Path
    recipe: Recipe
    key: str

    @property
    def disk(self) -> Path:
        """The disk, in the qcow2 format; boards write to overlays of it."""
        return self.folder / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        """The kernel."""
        return self.folder / "kernel"

    @property
    def first_files(self) -> Path:
        """The first file system, without what a profile adds."""
        return self.folder / "initramfs"

    @property
    def identity_file(self) -> Path:
        """Private key that is let in."""
        return self.folder / "user_key"

    @property
    def host_key(self) -> str:
        """The boards' public host key: algorithm and base64."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def made(self) -> str:
        """Hash of the files themselves: an image that was built again, of the same parts, has other keys.

        Raises:
            ConfigError: If they are not known, with the remedy.
        """
        try:
            return hashlib.sha256((self.folder / "hashes.json").read_bytes()).hexdigest()
        except OSError as error:
            raise self._damaged(str(error)) from error

    @property
    def build_s(self) -> float | None:
        """How long its build took; None if that is not known."""
        try:
            return float(json.loads((self.folder / "build.json").read_text())["build_s"])
        except (OSError, ValueError, KeyError):
            return None

    def check(self) -> None:
        """Compares every file with the hash that it had when it was built.

        Raises:
            ConfigError: If one is damaged or missing, with the remedy.
        """
        try:
            hashes = json.loads((self.folder / "hashes.json").read_text())
            damaged = [name for name, sha256 in hashes.items() if file_hash(self.folder / name) != sha256]
        except (OSError, ValueError) as error:
            damaged = [str(error)]
        if damaged:
            raise self._damaged(", ".join(damaged))

    def _damaged(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self.folder}: damaged ({what}); build it anew: boardwise devices emulate PROFILE --rebuild"
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def built(recipe: Recipe) -> Image | None:
    """The image of a recipe, if there is one; nothing is fetched."""
    lock = locking.read(_folder(), recipe)
    if lock is None:
        return None
    image = _image(recipe, lock)
    return image if (image.folder / "hashes.json").is_file() else None


def build(recipe: Recipe, finish: Callable[[Image, Say], None], say: Say, *, rebuild: bool = False) -> Image:
    """The image of a recipe, built if need be; one process builds, others wait for it.

    Args:
        recipe: What to build.
        finish: Boots the image once and leaves its disk as it is to stay.
        say: Told what is being done.
        rebuild: Whether to take the newest packages and wheels, and build in any case.

    Raises:
        ConfigError: If the host lacks programs or room, or packages cannot be had.
        ProvisionError: If wheels cannot be had or a runtime does not work there.
    """
    known = None if rebuild else built(recipe)
    if known is not None:
        return known
    with alone(_folder() / f"{recipe.name}.lock", say, f"builds {recipe.title}"):
        known = None if rebuild else built(recipe)
        if known is not None:
            return known
        require([*TO_BUILD, "qemu-img", recipe.emulator], recipe.keyring)
        _require_room(_folder())
        started = time.monotonic()
        work = _folder() / f".building-{recipe.name}"
        clear(work, work / FIRST)
        work.mkdir(parents=True)
        try:
            lock = None if rebuild else locking.read(_folder(), recipe)
            image = _Build(recipe, work, say).run(lock, finish)
        finally:
            clear(work, work / FIRST)
        build_s = time.monotonic() - started
        (image.folder / "build.json").write_text(json.dumps({"build_s": build_s}) + "\n")
        say(f"built {recipe.title} in {build_s:.0f} s")
        return image


def _folder() -> Path:
    return emulation_folder() / "images"


def _image(recipe: Recipe, lock: locking.Lock) -> Image:
    guest = {path.name: file_hash(path) for path in sorted(GUEST.iterdir())}
    key = digest([VERSION, dataclasses.asdict(recipe), guest, dataclasses.asdict(lock)])[:16]
    return Image(_folder() / f"{recipe.name}-{key}", recipe, key)


def _require_room(folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < NEEDED_BYTES:
        raise ConfigError(
            f"{folder}: building an image takes {NEEDED_BYTES / 1e9:.1f} GB for a while, and only"
            f" {free_bytes / 1e9:.1f} GB are free; make room, or set BOARDWISE_CACHE to a folder with more"
        )


@dataclass(frozen=True)
class _Build:
    recipe: Recipe
    work: Path
    say: Say

    def run(self, lock: locking.Lock | None, finish: Callable[[Image, Say], None]) -> Image:
        apt = PrivateApt(_folder() / f"apt-{self.recipe.architecture}", self.recipe)
        wheels = cache_folder() / "wheels"
        lock = locking.resolve(self.recipe, apt, wheels, self.say, lock)
        final = _image(self.recipe, lock)
        image = Image(self.work / "image", self.recipe, final.key)
        image.folder.mkdir()
        for name in ("host_key", "user_key"):
            _run(
                [
                    *("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "boardwise"),
                    "-f",
                    str(image.folder / name),
                ]
            )
        self.say("unpacking packages")
        self._kernel(apt, lock, image)
        self._disk(apt, lock, image, wheels)
        locking.write(image.folder / "lock.json", lock)
        finish(image, self.say)
        files = [path for path in sorted(image.folder.iterdir()) if path.is_file()]
        (image.folder / "hashes.json").write_text(json.dumps({p.name: file_hash(p) for p in files}))
        shutil.rmtree(final.folder, ignore_errors=True)
        image.folder.rename(final.folder)
        locking.write(locking.path(_folder(), self.recipe), lock)
        for old in _folder().glob(f"{self.recipe.name}-????????????????"):
            if old != final.folder:
                shutil.rmtree(old, ignore_errors=True)  # a board that still runs has its files open
        return final

    def _kernel(self, apt: PrivateApt, lock: locking.Lock, image: Image) -> None:
        unpacked = self.work / "kernel"
        _run(["dpkg-deb", "-x", str(apt.archives / lock.kernel.filename), str(unpacked)])
        shutil.copyfile(kernel.kernel_of(unpacked), image.kernel)
        busybox = next(p for p in lock.packages if p.name == "busybox-static")
        _run(["dpkg-deb", "-x", str(apt.archives / busybox.filename), str(self.work / "busybox")])
        program = next(self.work.glob("busybox/**/bin/busybox"))
        modules = kernel.modules_of(unpacked, self.recipe.modules)
        image.first_files.write_bytes(kernel.initramfs(program.read_bytes(), modules))

    def _disk(self, apt: PrivateApt, lock: locking.Lock, image: Image, wheels: Path) -> None:
        packages, over = self.work / "packages", self.work / "over"
        packages.mkdir()
        for package in lock.packages:
            if package.name not in self.recipe.left_out and package != lock.kernel:
                (packages / package.filename).symlink_to(apt.archives / package.filename)
        self._overlay(over, image)
        for brought in lock.runtimes:
            self.say(f"unpacking {brought.package} {brought.version}")
            copies = [(wheel.sha256, wheels / "files" / wheel.filename) for wheel in brought.wheels]
            unpack(over / f"home/{USER}/{DIRECTORY}/1/runtimes/{brought.package}-{brought.version}", copies)
        self.say("making the disk")
        raw = self.work / "disk.raw"
        script = [
            "sh",
            str(GUEST / "assemble"),
            str(packages),
            str(over),
            str(raw),
            str(self.recipe.disk_bytes),
        ]
        _run(["fakeroot", "--", *script])
        self.say("compressing the disk")
        _run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", str(raw), str(image.disk)])
        raw.unlink()

    def _overlay(self, over: Path, image: Image) -> None:
        """Files that no package has: accounts, keys, what is started."""
        key = (image.folder / "user_key.pub").read_text()
        files = {
            "etc/passwd": _PASSWD,
            "etc/group": _GROUP,
            "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
            "etc/hosts": "127.0.0.1 localhost\n",
            "etc/hostname": "board\n",
            "etc/machine-id": image.key.ljust(32, "0") + "\n",
            "etc/fstab": "",
            "etc/inittab": (GUEST / "inittab").read_text(),
            "etc/ssh/sshd_config": (GUEST / "sshd_config").read_text(),
            "root/.ssh/authorized_keys": key,
            f"home/{USER}/.ssh/authorized_keys": key,
        }
        for name, text in files.items():
            _write(over / name, text, 0o644)
        for name, target in self.recipe.links.items():
            (over / name).parent.mkdir(parents=True, exist_ok=True)
            (over / name).symlink_to(target)
        _write(over / "etc/shadow", "root:*:19000::::::\npi:*:19000::::::\nsshd:*:19000::::::\n", 0o600)
        _write(over / "etc/init.d/boot", (GUEST / "boot").read_text(), 0o755)
        _write(over / "etc/ssh/ssh_host_ed25519_key", (image.folder / "host_key").read_text(), 0o600)
        for name in ("root", "root/.ssh", f"home/{USER}", f"home/{USER}/.ssh"):
            (over / name).chmod(0o700)


_PASSWD = """root:x:0:0:root:/root:/bin/bash
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
pi:x:1000:1000::/home/pi:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\npi:x:1000:\n"


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _run(command: list[str]) -> None:
    program = find(command[0]) or command[0]
    done: Any = subprocess.run(
        [program, *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ConfigError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
