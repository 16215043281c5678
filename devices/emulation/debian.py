"""Debian packages for another machine, fetched as any user, with Debian's signatures checked by apt.

apt is given a state of its own (no lists, no installed packages, no lock), so nothing of the host's is
read but its proxy settings, and nothing is changed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from devices.emulation.host_programs import find
from devices.emulation.recipe import Recipe
from results.errors import ConfigError

_LIMIT_S = 1800.0


@dataclass(frozen=True)
class Package:
    """One Debian package, by its hash."""

    name: str
    version: str
    filename: str
    sha256: str


class PrivateApt:
    """An apt of one's own.

    Args:
        folder: Where it keeps its state and what it fetches.
        recipe: Which Debian.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder = folder
        self._recipe = recipe
        for part in ("lists/partial", "archives/partial", "etc/preferences.d", "etc/trusted.gpg.d"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(self._configuration())

    @property
    def archives(self) -> Path:
        """Where the packages are."""
        return self._folder / "archives"

    def fetch(self, say: Callable[[str], None]) -> list[Package]:
        """The newest packages that the recipe asks for, with all that they depend on.

        Raises:
            ConfigError: If the archive is out of reach, a signature is wrong or a package is missing.
        """
        say(f"reading the package lists of {self._recipe.title}")
        self._update(say)
        wanted = [*self._recipe.packages, self._recipe.kernel]
        say(f"fetching {self._recipe.title}: {len(wanted)} packages and what they depend on")
        for stale in self.archives.glob("*.deb"):
            stale.unlink()
        self._apt("--yes", "--download-only", "install", *wanted)
        return sorted(map(_package, self.archives.glob("*.deb")), key=lambda package: package.name)

    def fetch_again(self, packages: Sequence[Package], say: Callable[[str], None]) -> None:
        """Exactly these packages.

        Raises:
            ConfigError: If the archive is out of reach, has them no more, or gives others.
        """
        missing = [package for package in packages if not self._is_here(package)]
        if not missing:
            return
        say(f"fetching {len(missing)} packages of {self._recipe.title}")
        self._update(say)
        try:
            self._apt("download", *(f"{package.name}={package.version}" for package in missing))
        except ConfigError as error:
            raise ConfigError(f"{error}; take the newest packages with --rebuild") from error
        for package in missing:
            if not self._is_here(package):
                raise ConfigError(
                    f"{package.filename}: the archive gives another file than the one that was locked;"
                    " take the newest packages with --rebuild"
                )

    def _update(self, say: Callable[[str], None]) -> None:
        """Reads the lists; without the updates where these are out of order but the release is not.

        An emulated board is reachable from this host alone, so a missing security update is no danger.
        """
        lines = self._sources()
        sources = self._folder / "sources.list"
        sources.write_text("".join(lines))
        try:
            self._apt("update", "--error-on=any")
        except ConfigError as error:
            sources.write_text(lines[0])
            self._apt("update", "--error-on=any")
            say(f"without the updates of {self._recipe.suite}: {error}")

    def _is_here(self, package: Package) -> bool:
        path = self.archives / package.filename
        return path.is_file() and _sha256(path) == package.sha256

    def _apt(self, *arguments: str) -> None:
        command = [find("apt-get") or "apt-get", "--quiet=2", *arguments]
        environment = {
            "LC_ALL": "C",
            "APT_CONFIG": str(self._folder / "apt.conf"),
            "DEBIAN_FRONTEND": "noninteractive",
        }
        try:
            done = subprocess.run(
                command, cwd=self.archives, env=os.environ | environment, capture_output=True, text=True,
                timeout=_LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"apt-get {arguments[0]} took longer than {_LIMIT_S:g} s") from error
        if done.returncode != 0:
            said = "; ".join(line for line in done.stderr.splitlines() if line.startswith(("E:", "W:")))
            raise ConfigError(
                f"Debian's packages for {self._recipe.architecture} cannot be had"
                f" ({self._recipe.mirror}): {said or done.stderr.strip()[-500:]}"
            )

    def _sources(self) -> list[str]:
        """The release, then its updates."""
        recipe = self._recipe
        options = f"[arch={recipe.architecture} signed-by={recipe.keyring}]"
        return [
            f"deb {options} {recipe.mirror} {recipe.suite} main\n",
            f"deb {options} {recipe.mirror} {recipe.suite}-updates main\n",
            f"deb {options} {recipe.security_mirror} {recipe.suite}-security main\n",
        ]

    def _configuration(self) -> str:
        folder = self._folder
        return "".join(
            f"{key} {_quoted(value)};\n"
            for key, value in {
                "APT::Architecture": self._recipe.architecture,
                "APT::Architectures": self._recipe.architecture,
                "APT::Install-Recommends": "false",
                "APT::Sandbox::User": "",
                "Acquire::Languages": "none",
                "Acquire::Retries": "3",
                "Debug::NoLocking": "true",
                "Dir::State": f"{folder}/",
                "Dir::State::Lists": f"{folder}/lists/",
                "Dir::State::status": f"{folder}/status",
                "Dir::Cache": f"{folder}/",
                "Dir::Cache::Archives": f"{folder}/archives/",
                "Dir::Etc::SourceList": f"{folder}/sources.list",
                "Dir::Etc::SourceParts": "-",
                "Dir::Etc::Preferences": "-",
                "Dir::Etc::PreferencesParts": f"{folder}/etc/preferences.d",
                "Dir::Etc::TrustedParts": f"{folder}/etc/trusted.gpg.d",
            }.items()
        )


def _quoted(value: str) -> str:
    return '"' + value.replace('"', "") + '"'


def _package(path: Path) -> Package:
    name, version, _ = path.name.split("_", 2)
    return Package(name, unquote(version), path.name, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
