"""What an image consists of and what a profile looks like, read from the TOML files beside this module."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from devices.emulation.power_model import PowerModel
from results.errors import ConfigError, unknown_name
from results.settings import Settings

_HERE = Path(__file__).parent
_TEXTS = (
    *("title", "architecture", "machine", "emulator", "machine_options", "console", "suite", "mirror"),
    *("security_mirror", "keyring", "kernel"),
)
GUEST = _HERE / "guest"
"""Files that go into every image."""


@dataclass(frozen=True)
class Recipe:
    """What goes into an image; one image serves all profiles of its instruction set.

    Attributes:
        name: Name of its file.
        title: Name to show.
        architecture: Debian's name of the instruction set.
        machine: What ``uname -m`` says there.
        emulator: QEMU's program.
        machine_options: Its ``-machine``.
        console: The kernel's console.
        suite: Debian release.
        mirror: Where its packages are.
        security_mirror: Where its security updates are.
        keyring: Keys that its signatures are checked with, on this host.
        kernel: Package that depends on the kernel.
        packages: Packages wanted; what they depend on is added.
        left_out: Packages that are depended on only by what an installer would run; not unpacked.
        links: Links that an installer would make, path to target.
        modules: Kernel modules wanted; what they depend on is added.
        runtimes: Runtimes that every board of it has.
        disk_bytes: Size of the disk.
    """

    name: str
    title: str
    architecture: str
    machine: str
    emulator: str
    machine_options: str
    console: str
    suite: str
    mirror: str
    security_mirror: str
    keyring: str
    kernel: str
    packages: tuple[str, ...]
    left_out: tuple[str, ...]
    modules: tuple[str, ...]
    runtimes: tuple[str, ...]
    links: dict[str, str]
    disk_bytes: int


@dataclass(frozen=True)
class Profile:
    """One model of emulated board.

    Attributes:
        name: Name of its file.
        title: Name to show.
        recipe: Name of its image's recipe.
        cpu: QEMU's ``-cpu``: the instruction set, not the speed.
        memory_bytes: Memory.
        model: Device-tree model that it shows; ``(emulated)`` is added.
        clocks_hz: Lowest and highest clock that it shows.
        power: What its sensors show.
    """

    name: str
    title: str
    recipe: str
    cpu: str
    memory_bytes: int
    model: str
    clocks_hz: tuple[int, int]
    power: PowerModel


def recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    return {path.stem: _recipe(path) for path in sorted((_HERE / "recipes").glob("*.toml"))}


@cache
def profiles() -> dict[str, Profile]:
    """All profiles by name."""
    return {path.stem: _profile(path) for path in sorted((_HERE / "profiles").glob("*.toml"))}


def profile(name: str) -> Profile:
    """The profile of a name.

    Raises:
        ConfigError: If there is none, with the nearest that there are.
    """
    if name not in profiles():
        raise ConfigError(unknown_name("profile of emulated boards", name, profiles()))
    return profiles()[name]


def _recipe(path: Path) -> Recipe:
    top = Settings.read(path)
    values: dict[str, Any] = {key: top.take(key, str) for key in _TEXTS}
    values |= {
        key: tuple(map(str, top.take(key, list))) for key in ("packages", "left_out", "modules", "runtimes")
    }
    links = {name: str(target) for name, target in top.table("links").rest().items()}
    disk_bytes = top.take_count("disk_bytes", 1 << 30)
    recipe = Recipe(path.stem, **values, links=links, disk_bytes=disk_bytes)
    top.done()
    return recipe


def _power(table: Settings) -> PowerModel:
    names = ("idle_w", "busy_w", "resistance_c_per_w", "time_constant_s", "ambient_c", "soft_limit_c")
    numbers = {name: table.take(name, float) for name in names}
    model = PowerModel(**numbers, rail=table.take("rail", str, ""), pmic=table.take("pmic", bool, False))
    table.done()
    return model


def _profile(path: Path) -> Profile:
    top = Settings.read(path)
    values = {key: top.take(key, str) for key in ("title", "recipe", "cpu", "model")}
    low, high = top.take("clocks_hz", list)
    read = Profile(
        path.stem,
        **values,
        memory_bytes=top.take_count("memory_bytes", 1 << 29),
        clocks_hz=(int(low), int(high)),
        power=_power(top.table("power")),
    )
    top.done()
    if read.recipe not in recipes():
        raise ConfigError(f"{path}: recipe: {unknown_name('recipe', read.recipe, recipes())}")
    return read
