"""Wheels fetched on the host for a board of another kind, every one checked by its hash.

pip resolves tags for foreign machines but evaluates dependency markers for the machine it runs on, so
the dependencies are followed here, with the board's own environment, and pip is asked for one set of
named wheels at a time.  pip's report gives each wheel's hash, which is written to a lock file; a file
that does not have the hash that was locked is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from devices.interpreter import Interpreter
from devices.wheels import NO_NUMPY, Offer, platform_tags
from results.errors import ProvisionError

_PIP_LIMIT_S = 900.0
_ROUNDS = 12


class NoWheel(ProvisionError):
    """The index has no such release for that Python."""


@dataclass(frozen=True)
class Wheel:
    """One wheel, by its hash."""

    name: str
    version: str
    filename: str
    sha256: str


def obtain(device: str, offer: Offer, interpreter: Interpreter, cache: Path) -> tuple[list[Wheel], Path]:
    """The wheels of an offer and of what it depends on, in the cache, every hash checked.

    Args:
        device: Board, for errors.
        offer: What to fetch.
        interpreter: The board's Python.
        cache: Directory for wheels and lock files.

    Returns:
        The wheels, the runtime's own first, and the directory that their files lie in.

    Raises:
        NoWheel: If the index has none that fits.
        ProvisionError: If the index cannot be reached, or a file has not the hash that was locked.
    """
    folder = cache / "files"
    folder.mkdir(parents=True, exist_ok=True)
    locked = _locked(device, cache, offer, interpreter) if offer.version else None
    wheels = locked or _resolve(device, offer, interpreter)
    _compare(device, wheels, _locked(device, cache, Offer("", offer.package, wheels[0].version), interpreter))
    missing = [wheel for wheel in wheels if not (folder / wheel.filename).exists()]
    if missing:
        _download(device, missing, interpreter, folder)
    for wheel in wheels:
        _verify(device, wheel, folder)
    _write_lock(_lock_path(cache, wheels[0].name, wheels[0].version, interpreter), wheels)
    return wheels, folder


# --------------------------------------------------------------------------- the index, through pip


def _resolve(device: str, offer: Offer, interpreter: Interpreter) -> list[Wheel]:
    wanted = {offer.package: SpecifierSet(f"=={offer.version}" if offer.version else "")}
    if interpreter.machine not in NO_NUMPY:
        # tflite-runtime was built against NumPy 1; a process has one NumPy for all its runtimes.
        wanted["numpy"] = SpecifierSet("<2" if interpreter.version < (3, 12) else "")
    for _ in range(_ROUNDS):
        report = _ask_index(device, wanted, interpreter)
        grown = dict(wanted)
        for item in report:
            _demand(device, grown, item, report, interpreter)
        if grown == wanted:
            wheels = [_wheel(device, item) for item in report]
            return sorted(wheels, key=lambda w: (w.name != offer.package, w.name))
        wanted = grown
    raise ProvisionError(device, f"the dependencies of {offer.package} do not settle: {_lines(wanted)}")


def _demand(
    device: str,
    wanted: dict[str, SpecifierSet],
    item: Mapping[str, Any],
    report: Sequence[Mapping[str, Any]],
    interpreter: Interpreter,
) -> None:
    """Adds to ``wanted`` what a release depends on, or rules the release out if that cannot be had."""
    owner, version = canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"]
    versions: dict[str, str] = {
        canonicalize_name(other["metadata"]["name"]): other["metadata"]["version"] for other in report
    }
    demands = dict(wanted)
    for name, specifier in _dependencies(device, item, interpreter):
        demands[name] = demands.get(name, SpecifierSet()) & specifier
        broken = name in versions and not specifier.contains(versions[name], prereleases=True)
        if broken and not _exists(device, name, demands[name], interpreter):
            wanted[owner] = wanted[owner] & SpecifierSet(f"!={version}")
            return
    wanted.update(demands)


def _dependencies(
    device: str, item: Mapping[str, Any], interpreter: Interpreter
) -> Iterator[tuple[str, SpecifierSet]]:
    environment = _marker_environment(interpreter)
    for text in item["metadata"].get("requires_dist") or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise ProvisionError(
                device, f"{item['metadata']['name']} depends on {text!r}: {error}"
            ) from error
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate(environment)
        if applies and not (name == "numpy" and interpreter.machine in NO_NUMPY):
            yield name, requirement.specifier


def _exists(device: str, name: str, specifier: SpecifierSet, interpreter: Interpreter) -> bool:
    try:
        return bool(_ask_index(device, {name: specifier}, interpreter))
    except NoWheel:
        return False


def _ask_index(
    device: str, wanted: Mapping[str, SpecifierSet], interpreter: Interpreter
) -> list[dict[str, Any]]:
    """One report entry per wanted wheel, without their dependencies."""
    with tempfile.TemporaryDirectory(prefix="boardwise-") as nowhere:
        arguments = ["install", "--dry-run", "--ignore-installed", "--report", "-", "--target", nowhere]
        done = _pip([*arguments, *_tag_options(interpreter), *_lines(wanted)])
    if done.returncode != 0:
        raise _pip_error(device, done, _lines(wanted), interpreter)
    try:
        return list(json.loads(done.stdout)["install"])
    except (ValueError, KeyError, TypeError) as error:
        raise ProvisionError(
            device, f"pip's report cannot be read: {error}; update pip on this host"
        ) from error


def _marker_environment(interpreter: Interpreter) -> dict[str, str]:
    full = ".".join(map(str, interpreter.version))
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix",
        "platform_machine": interpreter.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": full,
        "python_version": "{}.{}".format(*interpreter.version),
        "sys_platform": "linux",
        "extra": "",
    }


def _wheel(device: str, item: Mapping[str, Any]) -> Wheel:
    metadata, source = item["metadata"], item["download_info"]
    filename = unquote(urlsplit(source["url"]).path.rsplit("/", 1)[-1])
    archive = source.get("archive_info", {})
    # pip before 23 gives the hash as one text, "sha256=...".
    sha256 = archive.get("hashes", {}).get("sha256") or archive.get("hash", "").partition("sha256=")[2]
    if not sha256 or not filename.endswith(".whl"):
        raise ProvisionError(device, f"the index gives no SHA-256 for {filename}; use an index that does")
    return Wheel(canonicalize_name(metadata["name"]), metadata["version"], filename, sha256)


def _download(device: str, wheels: Iterable[Wheel], interpreter: Interpreter, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        lines = [f"{w.name}=={w.version} --hash=sha256:{w.sha256}" for w in wheels]
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = ["download", "--require-hashes", "-r", str(requirements), "--dest", scratch]
        done = _pip([*arguments, *_tag_options(interpreter)])
        if done.returncode != 0:
            raise _pip_error(device, done, lines, interpreter)
        for wheel in wheels:
            _verify(device, wheel, Path(scratch))
            (Path(scratch) / wheel.filename).replace(folder / wheel.filename)


def _tag_options(interpreter: Interpreter) -> list[str]:
    major, minor, micro = interpreter.version
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    options += ["--python-version", f"{major}.{minor}.{micro}"]
    for abi in (f"cp{major}{minor}", "abi3", "none"):
        options += ["--abi", abi]
    for tag in platform_tags(interpreter.machine, interpreter.glibc or (2, 17)):
        options += ["--platform", tag]
    return options


def _pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pip",
        *arguments,
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PIP_LIMIT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"pip took longer than {_PIP_LIMIT_S:g} s")


def _pip_error(
    device: str, done: subprocess.CompletedProcess[str], lines: list[str], interpreter: Interpreter
) -> ProvisionError:
    said = "; ".join(line for line in done.stderr.strip().splitlines() if line.startswith("ERROR"))
    said = said or done.stderr.strip()[-500:]
    if "No module named pip" in done.stderr:
        return ProvisionError(device, f"this host's Python has no pip; run: {sys.executable} -m ensurepip")
    if "HASHES" in done.stderr:
        return ProvisionError(device, f"the index gives another file than the one that was locked: {said}")
    unreachable = [line for line in done.stderr.splitlines() if "Retrying" in line]
    if unreachable:
        return ProvisionError(
            device, f"the package index cannot be reached from this host: {unreachable[-1]}"
        )
    if "No matching distribution" in done.stderr:
        return NoWheel(device, f"the index has nothing for {interpreter.title}: {said}")
    return ProvisionError(device, f"pip could not fetch {' '.join(lines)} on this host: {said}")


def _lines(wanted: Mapping[str, SpecifierSet]) -> list[str]:
    return [f"{name}{specifier}" for name, specifier in wanted.items()]


# --------------------------------------------------------------------------- hashes and locks


def _verify(device: str, wheel: Wheel, folder: Path) -> None:
    path = folder / wheel.filename
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ProvisionError(
            device,
            f"{path} has SHA-256 {found}, but {wheel.sha256} was promised: it is damaged or was exchanged;"
            " delete it and try again",
        )


def _lock_path(cache: Path, package: str, version: str, interpreter: Interpreter) -> Path:
    tag = "cp{}{}-{}-glibc{}.{}".format(
        *interpreter.version[:2], interpreter.machine, *(interpreter.glibc or (0, 0))
    )
    return cache / "locks" / tag / f"{package}-{version}.json"


def _locked(device: str, cache: Path, offer: Offer, interpreter: Interpreter) -> list[Wheel] | None:
    path = _lock_path(cache, offer.package, str(offer.version), interpreter)
    try:
        return [Wheel(**item) for item in json.loads(path.read_text(encoding="utf-8"))] or None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ProvisionError(device, f"{path}: not a lock file: {error}; delete it and try again") from error


def _compare(device: str, wheels: Iterable[Wheel], locked: Iterable[Wheel] | None) -> None:
    hashes = {wheel.filename: wheel.sha256 for wheel in locked or ()}
    for wheel in wheels:
        if hashes.get(wheel.filename, wheel.sha256) != wheel.sha256:
            raise ProvisionError(
                device,
                f"the index now gives {wheel.filename} with SHA-256 {wheel.sha256}, but when it was first"
                f" fetched that was {hashes[wheel.filename]}; a released file never changes: find out why",
            )


def _write_lock(path: Path, wheels: Iterable[Wheel]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps([asdict(wheel) for wheel in wheels], indent=1) + "\n", encoding="utf-8")
    new.replace(path)
