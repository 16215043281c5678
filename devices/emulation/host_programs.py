"""What this host must have for emulation, and how to get what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from results.errors import ConfigError

TO_RUN = {
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-img": "qemu-utils",
}
TO_BUILD = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "fakeroot": "fakeroot",
    "mke2fs": "e2fsprogs",
    "ssh-keygen": "openssh-client",
}
LEAST_QEMU = (7, 0)
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def find(program: str) -> str | None:
    """Full path of a program; also where users' PATH often does not lead."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN]))


def require(programs: Iterable[str], keyring: str | None = None) -> None:
    """Refuses a host that lacks programs.

    Args:
        programs: Names among those of :data:`TO_RUN` and :data:`TO_BUILD`.
        keyring: File of Debian's keys that is needed as well.

    Raises:
        ConfigError: With everything that is missing and one line that installs it.
    """
    packages = TO_RUN | TO_BUILD
    missing = [program for program in programs if find(program) is None]
    wanted = [packages[program] for program in missing]
    if keyring is not None and not Path(keyring).is_file():
        missing.append(keyring)
        wanted.append("debian-archive-keyring")
    if not missing:
        return
    if find("apt-get") is None:
        raise ConfigError(
            f"emulated boards need {', '.join(missing)}; images are built from Debian's packages, so this"
            " works on Debian, Ubuntu and their relatives only: use a real board, or the connection `local`"
        )
    names = " ".join(sorted(set(wanted)))
    raise ConfigError(
        f"emulated boards need {', '.join(missing)}; install with: sudo apt-get install {names}"
    )


@cache
def qemu_version(emulator: str) -> str:
    """Version of QEMU, such as ``7.2.22``.

    Raises:
        ConfigError: If it is missing, does not start or is too old.
    """
    require([emulator])
    program = find(emulator) or emulator
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)[.\d]*", done.stdout)
    if found is None:
        raise ConfigError(f"{program} --version says {(done.stdout or done.stderr).strip()[:200]!r}")
    if (int(found[1]), int(found[2])) < LEAST_QEMU:
        raise ConfigError(
            f"{program} is QEMU {found[0].split()[1]}; emulated boards need"
            f" {'.'.join(map(str, LEAST_QEMU))} or newer"
        )
    return found[0].split()[1]
