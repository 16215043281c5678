"""Archives in the format that the kernel unpacks at its start (cpio, "newc"), owned by root.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """A folder, a file or a link.

    Attributes:
        path: Where, without a leading slash.
        mode: Kind and permissions.
        data: Content, or where a link leads.
    """

    path: str
    mode: int
    data: bytes = b""


def folder(path: str) -> Entry:
    """A folder."""
    return Entry(path, stat.S_IFDIR | 0o755)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """A file."""
    return Entry(path, stat.S_IFREG | permissions, data)


def link(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """The entries with the folders that they lie in before them."""
    complete: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.path.split("/")
        for count in range(1, len(parts)):
            parent = "/".join(parts[:count])
            complete.setdefault(parent, folder(parent))
        complete[entry.path] = entry
    return list(complete.values())


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive; its length is a multiple of 512, so that another one may follow."""
    pieces = [_packed(entry, number) for number, entry in enumerate(entries, 1)]
    archive = b"".join([*pieces, _packed(Entry(_TRAILER, 0), 0)])
    return archive + bytes(-len(archive) % 512)


def _packed(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (4), name size, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return header + bytes(-len(header) % 4) + entry.data + bytes(-len(entry.data) % 4)
