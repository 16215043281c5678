"""Addresses, and what the user's ssh configuration makes of them; jump hosts against real servers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import ssh_config as module
from devices.host_keys import trust
from devices.ssh_config import SshAddress, resolve
from devices.ssh_route import SshSettings
from examples.private_sshd import PrivateSshd
from results.errors import AuthenticationError, ConfigError, ConnectionLost, HostKeyError
from tests.fixtures_ssh import Connect

# ---------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("board", SshAddress("board")),
        ("pi@192.0.2.7", SshAddress("192.0.2.7", "pi")),
        ("pi@board.local:2222", SshAddress("board.local", "pi", 2222)),
        ("ssh://pi@board:22/", SshAddress("board", "pi", 22)),
        ("[2001:db8::7]:2222", SshAddress("2001:db8::7", None, 2222)),
        ("pi@[fe80::1%eth0]", SshAddress("fe80::1%eth0", "pi")),
        ("pi@2001:db8::7", SshAddress("2001:db8::7", "pi")),
        ("some_alias-2", SshAddress("some_alias-2")),
        ("DOMAIN\\pi@board", SshAddress("board", "DOMAIN\\pi")),
    ],
)
def test_addresses(text: str, expected: SshAddress) -> None:
    assert SshAddress.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pi@",
        "@board",
        "board:",
        "board:ssh",
        "board:0",
        "board:65536",
        "-oProxyCommand=x",
        "a b",
        "a;b",
        "[::1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        SshAddress.parse(text)


@given(
    host=st.text("ab9.", min_size=1) | st.integers(0, 65535).map("2001:db8::{:x}".format),
    user=st.none() | st.text("pi_3.", min_size=1),
    port=st.none() | st.integers(1, 65535),
)
def test_an_address_is_read_as_it_is_written(host: str, user: str | None, port: int | None) -> None:
    address = SshAddress(host, user, port)
    assert SshAddress.parse(str(address)) == address


# ---------------------------------------------------------------------- ssh -G


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent/of/the/session")
    monkeypatch.setenv("KEYS", "/keys")
    included = tmp_path / "included"
    included.write_text("Host board\n  Port 2222\n  IdentityFile ~/.ssh/second\n")
    config = tmp_path / "config"
    config.write_text(
        f"""
Include {included}
Host board
  HostName %h.example
  User pi
  IdentityFile ${{KEYS}}/first_%h_%r_%p
  IdentitiesOnly yes
  ProxyJump me@outer:23,inner
  HostKeyAlias The-Board
  UserKnownHostsFile /known/one /known/two
  GlobalKnownHostsFile none
  ConnectTimeout 7
Host command
  ProxyCommand relay %h:%p as %r for %n 100%%
  IdentityAgent none
Host odd
  IdentityAgent ~/agent
Host variable
  IdentityAgent $KEYS
Host passing
  ProxyUseFdpass yes
Host revoking
  RevokedHostKeys /keys/revoked
"""
    )
    return config


def test_everything_that_is_heeded(config: Path) -> None:
    options = resolve(SshAddress("board"), config)
    assert (options.host, options.port, options.user) == ("board.example", 2222, "pi")
    assert options.identity_files == (Path.home() / ".ssh/second", Path("/keys/first_board.example_pi_2222"))
    assert options.identities_only
    assert options.agent == "/agent/of/the/session"
    assert options.jumps == (SshAddress("outer", "me", 23), SshAddress("inner"))
    assert options.known_hosts == (Path("/known/one"), Path("/known/two"))
    assert options.known_as == "the-board"
    assert options.connect_limit_s == 7


def test_the_address_wins_over_the_configuration(config: Path) -> None:
    options = resolve(SshAddress("board", "root", 22), config)
    assert (options.port, options.user) == (22, "root")


def test_names_in_known_hosts_files_carry_the_port(config: Path) -> None:
    assert resolve(SshAddress("Else", port=2022), config).known_as == "[else]:2022"
    assert resolve(SshAddress("else"), config).known_as == "else"


def test_proxy_commands_and_agents(config: Path) -> None:
    options = resolve(SshAddress("command", "pi", 24), config)
    assert options.proxy_command == "relay command:24 as pi for command 100%"
    assert options.agent is None
    assert options.connect_limit_s == module.CONNECT_LIMIT_S
    assert resolve(SshAddress("odd"), config).agent == str(Path.home() / "agent")
    assert resolve(SshAddress("variable"), config).agent == "/keys"


@pytest.mark.parametrize(
    ("alias", "setting"), [("passing", "ProxyUseFdpass"), ("revoking", "RevokedHostKeys")]
)
def test_what_is_not_supported_is_refused(alias: str, setting: str, config: Path) -> None:
    with pytest.raises(ConfigError, match=setting):
        resolve(SshAddress(alias), config)


def test_a_broken_configuration_is_named_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "broken"
    config.write_text("Host *\n  Nonsense yes\n")
    with pytest.raises(ConfigError, match=r"broken.*line 2.*nonsense"):
        resolve(SshAddress("board"), config)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        resolve(SshAddress("board"), tmp_path / "nowhere")


def test_a_configuration_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_LIMIT_S", 0.3)
    config = tmp_path / "slow"
    config.write_text('Match exec "sleep 5"\n  User x\n')
    with pytest.raises(ConfigError, match="Match exec"):
        resolve(SshAddress("board"), config)


def test_without_ssh_its_defaults_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    options = resolve(SshAddress("board", "pi"))
    assert (options.host, options.port, options.user) == ("board", 22, "pi")
    assert tmp_path / ".ssh" / "id_ed25519" in options.identity_files
    assert tmp_path / ".ssh" / "known_hosts" in options.known_hosts
    with pytest.raises(ConfigError, match="install"):
        resolve(SshAddress("board"), tmp_path / "config")


# ---------------------------------------------------------------------- the way there


@pytest.fixture
def two_hops(sshd: PrivateSshd, own_sshd: PrivateSshd, tmp_path: Path) -> SshSettings:
    """``board`` is the shared server, reached through ``hop``, the test's own; both pinned in user files."""
    config = tmp_path / "jumping"
    (tmp_path / "aliases").write_text(
        "the-board " + sshd.known_hosts.read_text().split("\n")[0].split(" ", 1)[1]
    )
    config.write_text(
        f"""
Host board
  HostName 127.0.0.1
  Port {sshd.port}
  User {sshd.user}
  IdentityFile {sshd.identity_file}
  ProxyJump hop
  HostKeyAlias the-board
  UserKnownHostsFile {tmp_path / "aliases"}
Host twice
  HostName 127.0.0.1
  Port {sshd.port}
  User {sshd.user}
  IdentityFile {sshd.identity_file}
  ProxyJump hop,hop2
  UserKnownHostsFile {sshd.known_hosts}
Host piped
  HostName 127.0.0.1
  Port {sshd.port}
  User {sshd.user}
  IdentityFile {sshd.identity_file}
  ProxyCommand ssh -F {config} -W %h:%p hop
  UserKnownHostsFile {sshd.known_hosts}
Host failing
  HostName 127.0.0.1
  ProxyCommand echo no way through >&2; exit 1
Host hop hop2
  HostName 127.0.0.1
  Port {own_sshd.port}
  User {own_sshd.user}
  IdentityFile {own_sshd.identity_file}
  UserKnownHostsFile {own_sshd.known_hosts}
Host circle
  ProxyJump circle
Host *
  GlobalKnownHostsFile none
  IdentityAgent none
"""
    )
    return SshSettings(SshAddress("board"), tmp_path / "known_hosts", config_file=config)


def to(settings: SshSettings, alias: str) -> SshSettings:
    return replace(settings, address=SshAddress(alias))


@pytest.mark.ssh
@pytest.mark.parametrize("alias", ["board", "twice", "piped"])
def test_the_way_leads_through_the_jump_host(
    alias: str, two_hops: SshSettings, own_sshd: PrivateSshd, sshd: PrivateSshd, connect: Connect
) -> None:
    connection = connect(to(two_hops, alias))
    client = connection.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout.decode().split()
    assert client[3] == str(sshd.port)
    assert own_sshd.sessions()
    own_sshd.cut()
    with pytest.raises(ConnectionLost):
        connection.run(["sleep", "10"])
    assert connection.run(["true"]).returncode == 0


@pytest.mark.ssh
def test_much_data_goes_through_a_jump_host(two_hops: SshSettings, connect: Connect) -> None:
    data = bytes(range(256)) * 8000
    assert connect(two_hops).run(["cat"], stdin=data).stdout == data


@pytest.mark.ssh
def test_every_key_on_the_way_is_asked_for_in_turn(
    two_hops: SshSettings, sshd: PrivateSshd, own_sshd: PrivateSshd, connect: Connect, tmp_path: Path
) -> None:
    own_sshd.known_hosts.write_text("")
    (tmp_path / "aliases").write_text("")
    with pytest.raises(HostKeyError, match=rf"\[127\.0\.0\.1\]:{own_sshd.port} is not known"):
        connect(two_hops).run(["true"])
    names = []
    connection = connect(two_hops)
    while not (key := connection.fetch_host_key()).trusted:
        names.append(key.name)
        trust(key, two_hops.known_hosts)
    assert names == [f"[127.0.0.1]:{own_sshd.port}", "the-board"]
    assert connection.run(["true"]).returncode == 0


@pytest.mark.ssh
def test_a_jump_host_that_does_not_let_us_in_is_named(
    two_hops: SshSettings, own_sshd: PrivateSshd, connect: Connect
) -> None:
    (own_sshd.folder / "authorized_keys").write_text("")
    with pytest.raises(AuthenticationError, match=rf"127\.0\.0\.1:{own_sshd.port} does not let us in"):
        connect(two_hops).run(["true"])


@pytest.mark.ssh
def test_a_board_that_the_jump_host_cannot_reach(two_hops: SshSettings, connect: Connect) -> None:
    with pytest.raises(ConnectionLost, match=r"jump host cannot reach 127\.0\.0\.1 port 1 "):
        connect(replace(two_hops, address=SshAddress("board", port=1))).run(["true"])


@pytest.mark.ssh
def test_a_proxy_command_that_fails_says_why(two_hops: SshSettings, connect: Connect) -> None:
    with pytest.raises(ConnectionLost, match="no way through"):
        connect(to(two_hops, "failing")).run(["true"])


@pytest.mark.ssh
def test_jumps_in_a_circle_are_refused(two_hops: SshSettings, connect: Connect) -> None:
    with pytest.raises(ConfigError, match="circle"):
        connect(to(two_hops, "circle")).run(["true"])


@pytest.mark.ssh
def test_the_configuration_works_for_ssh_itself(two_hops: SshSettings) -> None:
    """The fixture means what it says: OpenSSH's own client takes the same way."""
    command = ["ssh", "-F", str(two_hops.config_file), "-o", "StrictHostKeyChecking=yes", "board", "true"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
