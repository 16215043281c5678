"""The kernel of a board and what it needs before it has a disk: modules, in order, and a first program."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Sequence
from pathlib import Path

from devices.emulation import cpio
from devices.emulation.recipe import GUEST
from results.errors import ConfigError

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def kernel_of(unpacked: Path) -> Path:
    """The kernel in an unpacked package.

    Raises:
        ConfigError: If there is not exactly one.
    """
    found = sorted((unpacked / "boot").glob("vmlinuz-*"))
    if len(found) != 1:
        raise ConfigError(f"{unpacked}: expected one kernel, found {[path.name for path in found]}")
    return found[0]


def modules_of(unpacked: Path, wanted: Sequence[str]) -> list[tuple[str, bytes]]:
    """Kernel modules in the order in which they can be loaded; what is built in is left out.

    Args:
        unpacked: Folder of an unpacked kernel package.
        wanted: Names of modules.

    Returns:
        Name and content of each.

    Raises:
        ConfigError: If the kernel does not have one.
    """
    folder = next((unpacked / "lib/modules").iterdir())
    files = {_name(path.name): path for path in folder.rglob("*.ko*")}
    built_in = {_name(line) for line in (folder / "modules.builtin").read_text().split()}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order or name in built_in:
            return
        if name not in files:
            raise ConfigError(f"kernel {folder.name} has no module {name!r}")
        content = _content(files[name])
        depends = _DEPENDS.search(content)
        for other in depends[1].decode().split(",") if depends and depends[1] else ():
            add(_name(other))
        order[name] = content

    for name in wanted:
        add(_name(name))
    return list(order.items())


def initramfs(busybox: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """The first file system of a board: loads the modules, then hands over to the disk.

    Args:
        busybox: A static busybox for the board.
        modules: Name and content, in order.
    """
    entries = [
        *map(cpio.folder, ("bin", "dev", "proc", "disk", "modules")),
        cpio.file("bin/busybox", busybox, 0o755),
        cpio.file("init", (GUEST / "initramfs-init").read_bytes(), 0o755),
        *(
            cpio.file(f"modules/{number:02}-{name}.ko", content)
            for number, (name, content) in enumerate(modules)
        ),
    ]
    return gzip.compress(cpio.pack(entries), 6, mtime=0)


def _name(file: str) -> str:
    """Name of a module; hyphens and underscores are the same in it."""
    return file.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
