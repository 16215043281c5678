"""Logging in with keys, encrypted keys and the ssh agent, on real OpenSSH servers."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devices.ssh_route import SshSettings
from examples.private_sshd import PrivateSshd
from results.errors import AuthenticationError
from tests.fixtures_ssh import NOTHING_OF_THE_USERS, Connect, Person, let_in, make_key

pytestmark = pytest.mark.ssh

PASSPHRASE = "correct horse"


@pytest.fixture
def with_key(
    own_sshd: PrivateSshd, settings_for: Callable[[PrivateSshd], SshSettings]
) -> Callable[[Path], SshSettings]:
    """Settings for the test's own server that use a certain key."""
    return lambda key: replace(settings_for(own_sshd), identity_file=key)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of a real, empty ssh agent."""
    path = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield path
        process.terminate()


def add_to_agent(agent: Path, key: Path) -> None:
    subprocess.run(
        ["ssh-add", "-q", key],
        check=True,
        env={**os.environ, "SSH_AUTH_SOCK": str(agent)},
        capture_output=True,
    )


def use_config(config: Path, *lines: str) -> None:
    config.write_text("\n".join(lines) + NOTHING_OF_THE_USERS)


# ---------------------------------------------------------------------- key files


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_plain_keys(
    kind: str,
    own_sshd: PrivateSshd,
    with_key: Callable[[Path], SshSettings],
    connect: Connect,
    tmp_path: Path,
) -> None:
    key = make_key(tmp_path / "key", kind=kind)
    let_in(own_sshd, key)
    assert connect(with_key(key)).run(["true"]).returncode == 0


def test_a_key_that_is_not_let_in_is_named(
    with_key: Callable[[Path], SshSettings], connect: Connect, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "stranger")
    with pytest.raises(AuthenticationError) as caught:
        connect(with_key(key)).run(["true"])
    message = str(caught.value)
    assert f"{key} SHA256:" in message
    assert "(refused)" in message
    assert "It accepts: publickey" in message
    assert "ssh-copy-id" in message


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_an_encrypted_key_is_unlocked_once(
    kind: str,
    own_sshd: PrivateSshd,
    with_key: Callable[[Path], SshSettings],
    connect: Connect,
    tmp_path: Path,
) -> None:
    key = make_key(tmp_path / "key", PASSPHRASE, kind)
    let_in(own_sshd, key)
    person = Person(["wrong", PASSPHRASE])
    connection = connect(with_key(key), ask_secret=person)
    assert connection.run(["true"]).returncode == 0
    assert person.asked == [f"Passphrase for the key {key}: "] * 2
    own_sshd.stop()
    own_sshd.start()
    with contextlib.suppress(Exception):
        connection.run(["true"])  # sees the loss
    assert connection.run(["true"]).returncode == 0
    assert len(person.asked) == 2, "a reconnection must not ask again"


def test_a_wrong_passphrase_is_asked_for_three_times_and_never_told(
    own_sshd: PrivateSshd,
    with_key: Callable[[Path], SshSettings],
    connect: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = make_key(tmp_path / "key", PASSPHRASE)
    let_in(own_sshd, key)
    person = Person(["Tr0ub4dor"])
    with caplog.at_level(logging.DEBUG), pytest.raises(AuthenticationError) as caught:
        connect(with_key(key), ask_secret=person).run(["true"])
    assert len(person.asked) == 3
    assert f"{key} (wrong passphrase)" in str(caught.value)
    assert "Tr0ub4dor" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("person", "reason"), [(None, "nobody to ask"), (Person([""]), "no passphrase was given")]
)
def test_an_encrypted_key_that_nobody_unlocks(
    person: Person | None,
    reason: str,
    own_sshd: PrivateSshd,
    with_key: Callable[[Path], SshSettings],
    connect: Connect,
    tmp_path: Path,
) -> None:
    key = make_key(tmp_path / "key", PASSPHRASE)
    let_in(own_sshd, key)
    with pytest.raises(AuthenticationError, match=rf"{key} \(encrypted, and {reason}\)"):
        connect(with_key(key), ask_secret=person).run(["true"])


def test_no_passphrase_is_asked_for_where_another_key_will_do(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
    tmp_path: Path,
    ssh_config: Path,
) -> None:
    locked = make_key(tmp_path / "locked", PASSPHRASE)
    use_config(ssh_config, f"IdentityFile {locked}", f"IdentityFile {own_sshd.identity_file}")
    person = Person([PASSPHRASE])
    settings = replace(settings_for(own_sshd), identity_file=None)
    assert connect(settings, ask_secret=person).run(["true"]).returncode == 0
    assert person.asked == []


def test_what_is_no_key_is_named(
    with_key: Callable[[Path], SshSettings], connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "letter").write_text("-----BEGIN LETTER-----\n")
    with pytest.raises(AuthenticationError, match=r"letter \(not a private key that can be read\)"):
        connect(with_key(tmp_path / "letter")).run(["true"])


def test_too_many_keys(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
    tmp_path: Path,
    ssh_config: Path,
) -> None:
    keys = [make_key(tmp_path / f"key{n}") for n in range(8)]
    use_config(ssh_config, *(f"IdentityFile {key}" for key in keys))
    settings = replace(settings_for(own_sshd), identity_file=None)
    with pytest.raises(
        AuthenticationError, match=r"hung up \(.*\): perhaps too many keys.*key5.*identity_file"
    ):
        connect(settings).run(["true"])


# ---------------------------------------------------------------------- agent


def test_the_agents_keys(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
    agent: Path,
    ssh_config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_to_agent(agent, own_sshd.identity_file)
    settings = replace(settings_for(own_sshd), identity_file=None)
    use_config(ssh_config, "IdentityAgent SSH_AUTH_SOCK")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(AuthenticationError, match="nothing: no key was found"):
        connect(settings).run(["true"])
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert connect(settings).run(["true"]).returncode == 0
    monkeypatch.delenv("SSH_AUTH_SOCK")
    use_config(ssh_config, f"IdentityAgent {agent}")
    assert connect(settings).run(["true"]).returncode == 0


def test_the_agent_holds_the_unlocked_half_of_an_encrypted_key(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
    agent: Path,
    tmp_path: Path,
    ssh_config: Path,
) -> None:
    """Of ten keys in the agent, more than a server lets one try, the one that is named comes first."""
    for number in range(10):
        add_to_agent(agent, make_key(tmp_path / f"other{number}"))
    key = make_key(tmp_path / "key")
    let_in(own_sshd, key)
    add_to_agent(agent, key)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", PASSPHRASE, "-f", key], check=True, capture_output=True
    )
    use_config(ssh_config, f"IdentityAgent {agent}")
    person = Person([PASSPHRASE])
    connection = connect(replace(settings_for(own_sshd), identity_file=key), ask_secret=person)
    assert connection.run(["true"]).returncode == 0
    assert person.asked == []


def test_a_public_key_alone_selects_a_key_of_the_agent(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
    agent: Path,
    ssh_config: Path,
) -> None:
    add_to_agent(agent, own_sshd.identity_file)
    use_config(ssh_config, f"IdentityAgent {agent}")
    public = own_sshd.identity_file.with_suffix(".pub")
    settings = replace(settings_for(own_sshd), identity_file=public)
    assert connect(settings).run(["true"]).returncode == 0


def test_identities_only_keeps_the_agents_other_keys_out(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
    agent: Path,
    ssh_config: Path,
) -> None:
    add_to_agent(agent, own_sshd.identity_file)
    use_config(ssh_config, f"IdentityAgent {agent}", "IdentitiesOnly yes")
    with pytest.raises(AuthenticationError, match="nothing: no key was found"):
        connect(replace(settings_for(own_sshd), identity_file=None)).run(["true"])


def test_an_agent_that_has_gone_is_no_agent(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
    tmp_path: Path,
    ssh_config: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as once:
        once.bind(str(tmp_path / "left over"))
    use_config(ssh_config, f'IdentityAgent "{tmp_path / "left over"}"')
    assert connect(settings_for(own_sshd)).run(["true"]).returncode == 0
