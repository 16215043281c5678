"""Logging in: keys, encrypted keys, the agent, passwords.

Keys are tried on real OpenSSH servers.  A server for passwords would need an account whose password the
tests know, so those are tried on the library's own server, over a real socket all the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import paramiko
import pytest

from devices.host_keys import HostKey, trust
from devices.ssh_config import SshAddress
from devices.ssh_route import SshSettings
from examples.private_sshd import PrivateSshd
from results.errors import AuthenticationError
from tests.fixtures_ssh import NOTHING_OF_THE_USERS, Connect, let_in, make_key

pytestmark = pytest.mark.ssh

PASSPHRASE = "correct horse"


@dataclass
class Person:
    """Answers questions by a list, the last answer again and again, and remembers them."""

    answers: list[str]
    asked: list[str] = field(default_factory=list)

    def __call__(self, question: str) -> str | None:
        self.asked.append(question)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


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


@pytest.mark.parametrize("answer", [None, ""])
def test_an_encrypted_key_with_nobody_to_ask(
    answer: str | None,
    own_sshd: PrivateSshd,
    with_key: Callable[[Path], SshSettings],
    connect: Connect,
    tmp_path: Path,
) -> None:
    key = make_key(tmp_path / "key", PASSPHRASE)
    let_in(own_sshd, key)
    ask = None if answer is None else Person([answer])
    with pytest.raises(AuthenticationError, match=rf"{key} \((encrypted, and nobody to ask|wrong)"):
        connect(with_key(key), ask_secret=ask).run(["true"])


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
    with pytest.raises(AuthenticationError, match=r"hung up: perhaps too many keys.*key5.*identity_file"):
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


# ---------------------------------------------------------------------- passwords


class PasswordServer(paramiko.ServerInterface):
    """Lets in whoever knows the password, in one of three ways, and answers every command with success."""

    PASSWORD = "s3cret"
    CODE = "123456"

    def __init__(self, methods: str) -> None:
        self.methods = methods

    def get_allowed_auths(self, username: str) -> str:
        return self.methods

    def check_auth_password(self, username: str, password: str) -> int:
        if "password" not in self.methods or password != self.PASSWORD:
            return paramiko.AUTH_FAILED
        if username == "two-steps":
            self.methods = "keyboard-interactive"
            return paramiko.AUTH_PARTIALLY_SUCCESSFUL
        return paramiko.AUTH_SUCCESSFUL

    def check_auth_interactive(self, username: str, submethods: str) -> paramiko.InteractiveQuery | int:
        if "keyboard-interactive" not in self.methods:
            return paramiko.AUTH_FAILED
        questions = (
            [("Password: ", False), ("Code: ", False)] if username == "coded" else [("Password: ", False)]
        )
        return paramiko.InteractiveQuery("", "", *questions)

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        right = [self.PASSWORD, self.CODE][: len(responses)]
        return paramiko.AUTH_SUCCESSFUL if list(responses) == right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Timer(0.05, self._succeed, [channel]).start()
        return True

    def _succeed(self, channel: paramiko.Channel) -> None:
        channel.send_exit_status(0)
        channel.close()


@pytest.fixture
def password_server(tmp_path: Path, ssh_config: Path) -> Iterator[Callable[[str, str], SshSettings]]:
    """Serves one connection for each call, by the methods given, and gives the settings for it."""
    host_key = paramiko.Ed25519Key.from_private_key_file(str(make_key(tmp_path / "host_key")))
    known_hosts = tmp_path / "known_hosts"
    transports: list[paramiko.Transport] = []
    listeners: list[socket.socket] = []

    def serve(methods: str, user: str = "pi") -> SshSettings:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            transports.append(paramiko.Transport(listener.accept()[0]))
            transports[-1].add_server_key(host_key)
            transports[-1].start_server(threading.Event(), PasswordServer(methods))

        threading.Thread(target=accept).start()
        port = listener.getsockname()[1]
        trust(HostKey(f"[127.0.0.1]:{port}", "ssh-ed25519", host_key.asbytes()), known_hosts)
        return SshSettings(SshAddress("127.0.0.1", user, port), known_hosts, config_file=ssh_config)

    yield serve
    for transport in transports:
        transport.close()
        transport.join(5.0)
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("methods", ["password", "keyboard-interactive", "publickey,password"])
def test_a_password_typed_right_the_second_time(
    methods: str, password_server: Callable[[str], SshSettings], connect: Connect
) -> None:
    settings = password_server(methods)
    person = Person(["wrong", PasswordServer.PASSWORD])
    connection = connect(settings, ask_secret=person)
    assert connection.run(["true"]).returncode == 0
    assert person.asked == [f"Password for {settings.address}: "] * 2


def test_a_server_with_a_second_question(
    password_server: Callable[[str, str], SshSettings], connect: Connect
) -> None:
    person = Person([PasswordServer.PASSWORD, PasswordServer.CODE])
    assert (
        connect(password_server("keyboard-interactive", "coded"), ask_secret=person).run(["true"]).returncode
        == 0
    )
    assert person.asked[1] == "Code: "


def test_a_server_that_wants_two_proofs(
    password_server: Callable[[str, str], SshSettings], connect: Connect
) -> None:
    settings = password_server("password", "two-steps")
    person = Person([PasswordServer.PASSWORD])
    assert connect(settings, ask_secret=person).run(["true"]).returncode == 0
    assert len(person.asked) == 2


def test_openssh_that_wants_a_password_after_the_key(
    tmp_path: Path, settings_for: Callable[[PrivateSshd], SshSettings], connect: Connect
) -> None:
    options = [
        "AuthenticationMethods publickey,password",
        "PasswordAuthentication yes",
        "PermitRootLogin yes",
    ]
    with (
        PrivateSshd(tmp_path / "sshd", options=options, home=tmp_path) as server,
        pytest.raises(AuthenticationError, match=r"accepted, but more is wanted.*It accepts: password"),
    ):
        connect(settings_for(server)).run(["true"])


def test_a_wrong_password_is_asked_for_three_times_and_never_told(
    password_server: Callable[[str], SshSettings], connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    person = Person(["Tr0ub4dor"])
    with caplog.at_level(logging.DEBUG), pytest.raises(AuthenticationError) as caught:
        connect(password_server("password"), ask_secret=person).run(["true"])
    assert len(person.asked) == 3
    assert "password (refused)" in str(caught.value)
    assert "Tr0ub4dor" not in str(caught.value) + caplog.text


def test_a_password_with_nobody_to_ask(
    password_server: Callable[[str], SshSettings], connect: Connect
) -> None:
    with pytest.raises(AuthenticationError, match=r"It accepts: password\..*password can be asked for"):
        connect(password_server("password")).run(["true"])


def test_openssh_refuses_a_password_where_only_keys_are_let_in(
    own_sshd: PrivateSshd,
    settings_for: Callable[[PrivateSshd], SshSettings],
    connect: Connect,
) -> None:
    person = Person(["anything"])
    with pytest.raises(AuthenticationError, match="It accepts: publickey"):
        connect(replace(settings_for(own_sshd), identity_file=None), ask_secret=person).run(["true"])
    assert person.asked == []


def test_openssh_refuses_a_wrong_password(
    tmp_path: Path, settings_for: Callable[[PrivateSshd], SshSettings], connect: Connect
) -> None:
    options = ["AuthenticationMethods any", "PasswordAuthentication yes", "PermitRootLogin yes"]
    with PrivateSshd(tmp_path / "sshd", options=options, home=tmp_path) as server:
        person = Person(["wrong"])
        settings = replace(settings_for(server), identity_file=None)
        with pytest.raises(AuthenticationError, match=r"password \(refused\)"):
            connect(settings, ask_secret=person).run(["true"])
