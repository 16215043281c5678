"""Which runtimes have wheels for a board, by its Python, machine and C library."""

from __future__ import annotations

from dataclasses import dataclass

from devices.interpreter import Interpreter
from results.errors import ProvisionError

Python = tuple[int, int]

PACKAGES = {"onnxruntime": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime")}
"""Packages that are a runtime, the preferred one first."""

FALLBACKS = {"onnxruntime": ("1.24.4", "1.23.2"), "ai-edge-litert": ("2.1.6",)}
"""Older releases to try where the newest is installed but does not start."""


@dataclass(frozen=True)
class Availability:
    """Wheels of a package that exist for a machine, whatever the release.

    Attributes:
        package: Distribution.
        machine: Instruction set.
        first: Oldest Python.
        last: Newest Python, or None where releases go on.
        glibc: Oldest C library, per Python where newer Pythons need more.
    """

    package: str
    machine: str
    first: Python
    last: Python | None
    glibc: tuple[int, int] = (2, 17)
    newer: tuple[Python, tuple[int, int]] | None = None

    def fits(self, interpreter: Interpreter) -> bool:
        """Whether some release has a wheel for that Python."""
        python = interpreter.version[:2]
        glibc = self.glibc if self.newer is None or python < self.newer[0] else self.newer[1]
        return (
            interpreter.machine == self.machine
            and not interpreter.free_threaded
            and self.first <= python
            and (self.last is None or python <= self.last)
            and interpreter.glibc is not None
            and glibc <= interpreter.glibc
        )

    def __str__(self) -> str:
        last = "newer" if self.last is None else "{}.{}".format(*self.last)
        return "{} (Python {}.{} to {}, glibc {}.{})".format(self.package, *self.first, last, *self.glibc)


AVAILABLE = (
    Availability("onnxruntime", "aarch64", (3, 8), None, newer=((3, 12), (2, 27))),
    Availability("onnxruntime", "x86_64", (3, 8), None, newer=((3, 12), (2, 27))),
    Availability("ai-edge-litert", "aarch64", (3, 9), None),
    Availability("ai-edge-litert", "x86_64", (3, 9), None),
    Availability("tflite-runtime", "aarch64", (3, 8), (3, 11), newer=((3, 11), (2, 34))),
    Availability("tflite-runtime", "armv7l", (3, 8), (3, 11), newer=((3, 11), (2, 34))),
    Availability("tflite-runtime", "x86_64", (3, 8), (3, 11)),
)
"""What the index had when this was written; nothing for armv6l, and only tflite-runtime for armv7l."""

NO_NUMPY = ("armv7l",)
"""Machines for which NumPy has no wheels: the board's own has to do."""


@dataclass(frozen=True)
class Offer:
    """One way of bringing a runtime to a board.

    Attributes:
        runtime: ``onnxruntime`` or ``tflite``.
        package: Distribution that provides it.
        version: Release; None for the newest that fits.
    """

    runtime: str
    package: str
    version: str | None


def runtimes_for(interpreter: Interpreter) -> list[str]:
    """Runtimes of which some wheel exists for that Python."""
    fitting = {row.package for row in AVAILABLE if row.fits(interpreter)}
    return [runtime for runtime, packages in PACKAGES.items() if fitting.intersection(packages)]


def offers(device: str, interpreter: Interpreter, runtime: str, version: str | None) -> list[Offer]:
    """Everything worth trying for a runtime on a board, the best first.

    Raises:
        ProvisionError: If no wheel exists for that Python, with what does exist for the board.
    """
    packages = [
        package
        for package in PACKAGES[runtime]
        if any(row.package == package and row.fits(interpreter) for row in AVAILABLE)
    ]
    if not packages:
        raise ProvisionError(
            device, f"no wheel of {runtime} exists for {interpreter.title}; {_instead(interpreter)}"
        )
    if interpreter.machine in NO_NUMPY and interpreter.numpy is None:
        raise ProvisionError(
            device,
            f"NumPy has no wheels for {interpreter.machine} and the board's Python has none of its own;"
            " install it there (Debian: sudo apt install python3-numpy) and try again",
        )
    if version is not None:
        return [Offer(runtime, package, version) for package in packages]
    return [Offer(runtime, p, v) for p in packages for v in (None, *FALLBACKS.get(p, ()))]


def _instead(interpreter: Interpreter) -> str:
    fitting = sorted({row.package for row in AVAILABLE if row.fits(interpreter)})
    if fitting:
        names = [f"{runtime} ({p})" for runtime, ps in PACKAGES.items() for p in ps if p in fitting]
        return f"what exists for it: {', '.join(names)}"
    others = [str(row) for row in AVAILABLE if row.machine == interpreter.machine]
    if others:
        return (
            f"for {interpreter.machine} there is only {', '.join(others)}: use another Python with --python"
        )
    return f"there is no runtime at all for {interpreter.machine}: the board is not supported"


def platform_tags(machine: str, glibc: tuple[int, int]) -> list[str]:
    """All manylinux tags that a C library satisfies, the newest first (PEP 600)."""
    least = 5 if machine in ("x86_64", "i686") else 17
    older = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    tags: list[str] = []
    for minor in range(glibc[1], least - 1, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in older:
            tags.append(f"{older[minor]}_{machine}")
    return tags
