"""Real OpenSSH servers on loopback ports, and what a login there needs; nothing of the user's is read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from devices.ssh import SshConnection
from devices.ssh_config import SshAddress
from devices.ssh_route import SshSettings
from examples.private_sshd import PrivateSshd

NOTHING_OF_THE_USERS = """
Host *
  UserKnownHostsFile none
  GlobalKnownHostsFile none
  IdentityFile none
  IdentityAgent none
"""

Connect = Callable[..., SshConnection]


@dataclass
class Person:
    """Answers questions by a list, the last answer again and again, and remembers them."""

    answers: list[str]
    asked: list[str] = field(default_factory=list)

    def __call__(self, question: str) -> str | None:
        self.asked.append(question)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(scope="session")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    """A server with two host keys that runs for all tests."""
    folder = tmp_path_factory.mktemp("sshd")
    with PrivateSshd(folder, key_types=("ed25519", "ecdsa"), home=folder / "home of a login") as server:
        yield server


@pytest.fixture
def sshd_home(shared_sshd: PrivateSshd) -> Path:
    """The directory in which logins on the shared server find themselves, empty."""
    home = shared_sshd.folder / "home of a login"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    return home


@pytest.fixture
def sshd(shared_sshd: PrivateSshd, sshd_home: Path) -> PrivateSshd:
    """The shared server with an empty home."""
    return shared_sshd


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[PrivateSshd]:
    """A server that a test may stop, cut and start again."""
    home = tmp_path / "own home"
    home.mkdir()
    with PrivateSshd(tmp_path / "own_sshd", home=home) as server:
        yield server


@pytest.fixture
def ssh_config(tmp_path: Path) -> Path:
    """A configuration under which ssh reads nothing of the user's."""
    config = tmp_path / "ssh_config"
    config.write_text(NOTHING_OF_THE_USERS)
    return config


@pytest.fixture
def settings_for(ssh_config: Path) -> Callable[[PrivateSshd], SshSettings]:
    """What it takes to log in on a server: its pinned key and the key that it lets in."""

    def settings(server: PrivateSshd) -> SshSettings:
        address = SshAddress.parse(server.address)
        return SshSettings(address, server.known_hosts, server.identity_file, ssh_config)

    return settings


@pytest.fixture
def connect(settings_for: Callable[[PrivateSshd], SshSettings]) -> Iterator[Connect]:
    """Makes connections to a server, or with settings, and closes them after the test."""
    connections: list[SshConnection] = []

    def make(to: PrivateSshd | SshSettings, **options: object) -> SshConnection:
        settings = settings_for(to) if isinstance(to, PrivateSshd) else to
        connections.append(SshConnection("desk", settings, **options))  # type: ignore[arg-type]
        return connections[-1]

    yield make
    for connection in connections:
        connection.close()


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A new key pair at ``path`` and ``path.pub``."""
    bits = ["-b", "2048"] if kind == "rsa" else []
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-f", path], check=True)
    return path


def let_in(server: PrivateSshd, key: Path) -> None:
    """Has a server accept a key."""
    with (server.folder / "authorized_keys").open("a") as keys:
        keys.write(key.with_name(f"{key.name}.pub").read_text())
