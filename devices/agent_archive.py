"""The agent as one file that a board's Python can run: a zip, the same bytes for the same sources."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "boardwise_agent"
START = f"from {PACKAGE}.__main__ import main\n\nraise SystemExit(main())\n"
LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Archive:
    """The zip.

    Attributes:
        data: Its bytes.
        sha256: Their hash.
    """

    data: bytes
    sha256: str

    @property
    def name(self) -> str:
        """Name of its file on a board; another agent has another name."""
        return f"agent-{self.sha256[:16]}.zip"


@cache
def archive() -> Archive:
    """The agent of this installation.

    Stored, not compressed: a board's Python may lack zlib, and the bytes do not depend on the host's.
    """
    folder = Path(__file__).with_name("agent")
    sources = {"__main__.py": START.encode()}
    for path in sorted(folder.rglob("*.py")):
        sources[f"{PACKAGE}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, source in sources.items():
            file.writestr(zipfile.ZipInfo(name, LONG_AGO), source)
    data = buffer.getvalue()
    return Archive(data, hashlib.sha256(data).hexdigest())
