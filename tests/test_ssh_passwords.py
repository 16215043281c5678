"""Logging in with passwords and by answering questions.

For a password that lets one in, OpenSSH needs an account whose password the tests know; so that is tried
on the library's own server, over a real socket all the same, and refusals on OpenSSH.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from devices.host_keys import HostKey, trust
from devices.ssh_config import SshAddress
from devices.ssh_route import SshSettings
from examples.private_sshd import PrivateSshd
from results.errors import AuthenticationError, ConnectionLost
from tests.fixtures_ssh import Connect, Person, make_key

pytestmark = pytest.mark.ssh


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


def test_a_server_that_starts_no_command_says_so(
    password_server: Callable[[str], SshSettings], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PasswordServer, "check_channel_exec_request", lambda *_: False)
    person = Person([PasswordServer.PASSWORD])
    with pytest.raises(ConnectionLost, match="the server starts no command"):
        connect(password_server("password"), ask_secret=person).run(["true"])


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
