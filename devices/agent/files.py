"""Reading the small files in which a kernel says how the machine is."""

from __future__ import annotations

import glob
import hashlib
import os
from typing import List, Optional


def read_text(path: str) -> Optional[str]:
    """Content of a small file, stripped; None where it is missing or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A read of /proc gives a page at most; device trees end their strings with NUL.
        pieces = list(iter(lambda: os.read(descriptor, 1 << 16), b""))
        return b"".join(pieces).decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_int(path: str, base: int = 10) -> Optional[int]:
    """A whole number in a file; None where there is none."""
    text = read_text(path)
    try:
        return int(text, base) if text else None
    except ValueError:
        return None


def field_of(text: Optional[str], key: str) -> Optional[int]:
    """First number after ``key`` in lines such as ``VmHWM:  123 kB`` or ``pswpin 0``."""
    for line in (text or "").splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[0] == key and words[1].isdigit():
            return int(words[1])
    return None


def paths(root: str, pattern: str) -> List[str]:
    """Existing paths below ``root`` that match, sorted by the numbers in them."""
    return sorted(glob.glob(os.path.join(glob.escape(root), pattern)), key=numbers_of)


def numbers_of(text: str) -> List[int]:
    """Sort key in which ``cpu10`` comes after ``cpu9``, and version 1.10 after 1.9."""
    return [int(word) for word in "".join(c if c.isdigit() else " " for c in text).split()]


def sha256_of(path: str) -> str:
    """Hash of a file's content, read anew."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
