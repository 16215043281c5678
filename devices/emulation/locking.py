"""Lock files of images: name, version and SHA-256 of every package and wheel that went in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devices.emulation.debian import Package, PrivateApt
from devices.emulation.recipe import Recipe
from devices.interpreter import Interpreter
from devices.wheel_index import NoWheel, Wheel, obtain
from devices.wheels import Offer, offers
from results.codec import digest, from_json, to_json
from results.errors import ConfigError, ProvisionError, StoreError


@dataclass(frozen=True)
class Brought:
    """A runtime and its wheels."""

    runtime: str
    package: str
    version: str
    wheels: tuple[Wheel, ...]


@dataclass(frozen=True)
class Lock:
    """Everything that goes into an image.

    Attributes:
        packages: Debian packages.
        runtimes: Runtimes with their wheels.
        wanted: Hash of what the recipe asked for then; one that asks for something else needs another lock.
    """

    packages: tuple[Package, ...]
    runtimes: tuple[Brought, ...]
    wanted: str = ""

    @property
    def kernel(self) -> Package:
        """The package that has the kernel itself."""
        return next(p for p in self.packages if re.match(r"linux-image-\d", p.name))


def path(folder: Path, recipe: Recipe) -> Path:
    """Where the lock file of a recipe is."""
    return folder / f"{recipe.name}.lock.json"


def wanted(recipe: Recipe) -> str:
    """Hash of what a recipe asks for."""
    asked = (recipe.architecture, recipe.suite, recipe.mirror, recipe.security_mirror)
    return digest([*asked, recipe.kernel, recipe.packages, recipe.runtimes])[:16]


def read(folder: Path, recipe: Recipe) -> Lock | None:
    """The lock of a recipe as it is now, if there is one.

    Raises:
        ConfigError: If the file is damaged.
    """
    file = path(folder, recipe)
    lock = read_file(file) if file.exists() else None
    return lock if lock is not None and lock.wanted == wanted(recipe) else None


def read_file(file: Path) -> Lock:
    """What a lock file holds.

    Raises:
        ConfigError: If it is damaged.
    """
    try:
        return from_json(Lock, json.loads(file.read_text()))
    except (OSError, ValueError, StoreError) as error:
        raise ConfigError(f"{file}: not a lock file ({error}); take the newest with --rebuild") from error


def write(file: Path, lock: Lock) -> None:
    """Writes a lock file."""
    file.write_text(json.dumps(to_json(lock), indent=1) + "\n")


def resolve(
    recipe: Recipe, apt: PrivateApt, wheels: Path, say: Callable[[str], None], lock: Lock | None
) -> Lock:
    """Fetches everything, the newest or exactly what a lock names; every hash is checked.

    Raises:
        ConfigError: If packages cannot be had.
        ProvisionError: If wheels cannot be had.
    """
    if lock is None:
        packages = tuple(apt.fetch(say))
    else:
        packages = lock.packages
        apt.fetch_again(packages, say)
    interpreter = interpreter_of(recipe, packages)
    brought = []
    for runtime in recipe.runtimes:
        known = next((b for b in lock.runtimes if b.runtime == runtime), None) if lock else None
        brought.append(_bring(recipe, interpreter, runtime, wheels, say, known))
    return Lock(packages, tuple(brought), wanted(recipe))


def interpreter_of(recipe: Recipe, packages: tuple[Package, ...]) -> Interpreter:
    """The Python that an image of these packages has."""
    versions = {package.name: package.version for package in packages}
    python = next(name for name in versions if re.fullmatch(r"python3\.\d+-minimal", name))
    return Interpreter(
        version=(*_numbers(versions[python]), 0, 0)[:3],  # type: ignore[arg-type]
        implementation="CPython",
        machine=recipe.machine,
        glibc=_numbers(versions["libc6"])[:2],  # type: ignore[arg-type]
        numpy=re.sub(r"^\d+:|[-+].*", "", versions["python3-numpy"]) if "python3-numpy" in versions else None,
    )


def _bring(
    recipe: Recipe,
    interpreter: Interpreter,
    runtime: str,
    cache: Path,
    say: Callable[[str], None],
    known: Brought | None,
) -> Brought:
    tried = [Offer(runtime, known.package, known.version)] if known else None
    for offer in tried or offers(recipe.name, interpreter, runtime, None):
        say(f"looking for {offer.package} {offer.version or '(newest)'} for {interpreter.title}")
        try:
            wheels, _ = obtain(recipe.name, offer, interpreter, cache)
        except NoWheel as error:
            say(error.message)
            continue
        return Brought(runtime, wheels[0].name, wheels[0].version, tuple(wheels))
    raise ProvisionError(recipe.name, f"no {runtime} for {interpreter.title}")


def _numbers(version: str) -> tuple[int, ...]:
    """``1:3.11.2-6+deb12u5`` as ``(3, 11, 2)``."""
    plain = re.sub(r"^\d+:|[-+~].*", "", version)
    return tuple(int(part) for part in plain.split(".") if part.isdigit())
