"""What the Python of a board is: asked before an agent can be started there.

The agent needs CPython >= 3.8 on glibc; wheels are chosen by version, machine and glibc.  The machine
is that of the *programs*: a 32-bit system on a 64-bit kernel counts as ``armv7l``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from devices.connection import Completed, Connection
from results.errors import PreflightError, ProtocolError

LEAST_PYTHON = (3, 8)

# Runs on whatever answers to "python3", so in the subset of all versions since 2.7.
_QUESTION = r"""
import json, os, platform, struct, sys
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (AttributeError, ValueError, OSError):
    libc = None
try:
    from importlib import metadata
    numpy = metadata.version("numpy")
except Exception:
    numpy = None
import sysconfig
print("\n" + json.dumps({
    "version": list(sys.version_info[:3]), "implementation": platform.python_implementation(),
    "machine": platform.machine(), "bits": 8 * struct.calcsize("P"), "libc": libc, "numpy": numpy,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""
_PROGRAMS_OF = {("aarch64", 32): "armv7l", ("armv8l", 32): "armv7l", ("x86_64", 32): "i686"}


@dataclass(frozen=True)
class Interpreter:
    """The Python of a board.

    Attributes:
        version: Such as ``(3, 11, 2)``.
        implementation: ``CPython`` or another.
        machine: Instruction set of its programs: ``aarch64``, ``armv7l``, ``armv6l``, ``x86_64`` ...
        glibc: Version of the C library, or None where it is another one (musl).
        numpy: Version of the NumPy it has of its own, or None.
        free_threaded: Whether it is a build without the global lock, which takes other wheels.
    """

    version: tuple[int, int, int]
    implementation: str
    machine: str
    glibc: tuple[int, int] | None
    numpy: str | None = None
    free_threaded: bool = False

    @property
    def title(self) -> str:
        """Such as ``Python 3.11.2 on aarch64 with glibc 2.36``."""
        libc = "a C library other than glibc" if self.glibc is None else "glibc {}.{}".format(*self.glibc)
        return f"Python {'.'.join(map(str, self.version))} on {self.machine} with {libc}"


def look(connection: Connection, python: str) -> Interpreter:
    """What the board's Python is.

    Args:
        connection: The way to the board.
        python: Name or path of the Python there.

    Raises:
        PreflightError: If there is none.
        ProtocolError: If it answers something else than it was asked.
        BoardError: As the connection raises it.
    """
    done = connection.run([python, "-c", _QUESTION], limit_s=60.0)
    if done.returncode != 0:
        raise _no_python(connection.device, python, done)
    try:
        return _read(json.loads(done.stdout.decode().strip().splitlines()[-1]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        text = done.stdout[-200:].decode(errors="replace")
        raise ProtocolError(
            connection.device, f"{python!r} answered {text!r} when asked what it is; is it Python?"
        ) from error


def is_supported(interpreter: Interpreter) -> bool:
    """Whether an agent can run there."""
    return (
        interpreter.version[:2] >= LEAST_PYTHON
        and interpreter.implementation == "CPython"
        and interpreter.glibc is not None
    )


def require(device: str, interpreter: Interpreter) -> None:
    """Refuses a Python on which no agent runs.

    Raises:
        PreflightError: With what was found and what is wanted.
    """
    if interpreter.version[:2] < LEAST_PYTHON:
        raise PreflightError(
            device,
            f"{interpreter.title} is too old: the board needs Python {'.'.join(map(str, LEAST_PYTHON))} or"
            " newer; name a newer one with --python, or use a newer system image",
        )
    if interpreter.implementation != "CPython":
        raise PreflightError(
            device, f"{interpreter.implementation} is not supported; name a CPython with --python"
        )
    if interpreter.glibc is None:
        raise PreflightError(
            device,
            f"{interpreter.title}: musl systems are not supported; use an image with glibc (Debian, Ubuntu)",
        )


def _read(answer: dict[str, Any]) -> Interpreter:
    major, minor, micro = (int(part) for part in answer["version"])
    machine, bits = str(answer["machine"]), int(answer["bits"])
    libc = str(answer["libc"] or "").split()
    glibc = None
    if len(libc) == 2 and libc[0] == "glibc":
        first, second = libc[1].split(".")[:2]
        glibc = (int(first), int(second))
    return Interpreter(
        version=(major, minor, micro),
        implementation=str(answer["implementation"]),
        machine=_PROGRAMS_OF.get((machine, bits), machine),
        glibc=glibc,
        numpy=None if answer["numpy"] is None else str(answer["numpy"]),
        free_threaded=bool(answer["free_threaded"]),
    )


def _no_python(device: str, python: str, done: Completed) -> PreflightError:
    said = done.stderr.decode(errors="replace").strip()[-300:]
    if done.returncode in (126, 127):
        return PreflightError(
            device,
            f"there is no Python at {python!r} ({said or 'not found'}); boards without Python >= 3.8 are not"
            " supported. Install it there (Debian: sudo apt install python3), or name another with --python",
        )
    return PreflightError(
        device,
        f"{python!r} cannot be started there (exit status {done.returncode}): {said or 'it said nothing'}",
    )
