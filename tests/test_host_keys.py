"""Host keys: what is trusted, what is not, and what the errors say, against real servers."""

from __future__ import annotations

import base64
import hashlib
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from devices.host_keys import HostKey, KnownHosts, fingerprint, trust
from devices.ssh_route import SshSettings
from examples.private_sshd import PrivateSshd
from results.errors import ConfigError, HostKeyError
from tests.fixtures_ssh import Connect, make_key

pytestmark = pytest.mark.ssh


def openssh_fingerprint(public_key: Path) -> str:
    done = subprocess.run(["ssh-keygen", "-lf", public_key], check=True, capture_output=True, text=True)
    return done.stdout.split()[1]


def key_line(server: PrivateSshd, kind: str = "ed25519") -> str:
    """The algorithm and the key of a server, as known_hosts files hold them."""
    return " ".join((server.folder / f"host_key_{kind}.pub").read_text().split()[:2])


def name_of(server: PrivateSshd) -> str:
    return f"[127.0.0.1]:{server.port}"


@pytest.fixture
def known_hosts(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts of ours"


@pytest.fixture
def settings(
    sshd: PrivateSshd, known_hosts: Path, settings_for: Callable[[PrivateSshd], SshSettings]
) -> SshSettings:
    """To the shared server, with a known_hosts file that the test writes."""
    return replace(settings_for(sshd), known_hosts=known_hosts)


# ---------------------------------------------------------------------- connecting


def test_an_unknown_key_is_refused_with_its_fingerprint(
    sshd: PrivateSshd, settings: SshSettings, connect: Connect
) -> None:
    with pytest.raises(HostKeyError) as caught:
        connect(settings).run(["true"])
    message = str(caught.value)
    assert openssh_fingerprint(sshd.folder / "host_key_ed25519.pub") in message
    assert name_of(sshd) in message
    assert "boardwise devices add" in message


def test_a_changed_key_is_refused_with_both_fingerprints_and_the_place(
    own_sshd: PrivateSshd,
    connect: Connect,
    settings_for: Callable[[PrivateSshd], SshSettings],
    tmp_path: Path,
) -> None:
    pinned = tmp_path / "pinned"
    pinned.write_text("# a comment\n\n" + own_sshd.known_hosts.read_text())
    settings = replace(settings_for(own_sshd), known_hosts=pinned)
    connection = connect(settings)
    connection.run(["true"])
    public = own_sshd.folder / "host_key_ed25519.pub"
    old = openssh_fingerprint(public)
    own_sshd.stop()
    own_sshd.renew_host_keys()
    own_sshd.start()
    with pytest.raises(HostKeyError) as caught:
        connect(settings).run(["true"])
    message = str(caught.value)
    assert f"{old} ({pinned}:3)" in message
    assert openssh_fingerprint(public) in message
    assert old != openssh_fingerprint(public)
    command = f"ssh-keygen -R '{name_of(own_sshd)}' -f '{pinned}'"
    assert command in message
    subprocess.run(command, shell=True, check=True, capture_output=True)
    trust(connect(settings).fetch_host_key(), pinned)
    assert connect(settings).run(["true"]).returncode == 0


def test_a_key_is_asked_for_of_the_kind_that_is_known(
    sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    # The server has an ed25519 key too, which would be taken first and look changed.
    known_hosts.write_text(f"{name_of(sshd)} {key_line(sshd, 'ecdsa')}\n")
    assert connect(settings).run(["true"]).returncode == 0
    assert connect(settings).fetch_host_key().algorithm == "ecdsa-sha2-nistp256"


def test_a_host_known_by_a_key_that_it_has_no_more_counts_as_changed(
    sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect, tmp_path: Path
) -> None:
    rsa = make_key(tmp_path / "rsa", kind="rsa").with_suffix(".pub")
    known_hosts.write_text(f"{name_of(sshd)} {rsa.read_text()}")
    with pytest.raises(HostKeyError, match=r"not the one that was trusted\. Trusted: ssh-rsa SHA256"):
        connect(settings).run(["true"])


def test_rsa_host_keys_are_known_by_their_one_name(
    tmp_path: Path, settings_for: Callable[[PrivateSshd], SshSettings], connect: Connect
) -> None:
    with PrivateSshd(tmp_path / "rsa", key_types=("ed25519", "rsa"), home=tmp_path) as server:
        known = tmp_path / "known"
        known.write_text(f"{name_of(server)} {key_line(server, 'rsa')}\n")
        connection = connect(replace(settings_for(server), known_hosts=known))
        assert connection.run(["true"]).returncode == 0
        assert connection.fetch_host_key().algorithm == "ssh-rsa"
        connection.close()


def test_a_revoked_key_is_refused_though_it_is_known(
    sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    line = key_line(sshd)
    known_hosts.write_text(f"{name_of(sshd)} {line}\n@revoked * {line}\n")
    with pytest.raises(HostKeyError, match=r"is revoked in .*:2;"):
        connect(settings).run(["true"])
    with pytest.raises(HostKeyError, match="revoked"):
        connect(settings).fetch_host_key()


def test_a_certificate_authority_trusts_no_plain_key(
    sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    known_hosts.write_text(f"@cert-authority {name_of(sshd)} {key_line(sshd)}\n")
    with pytest.raises(HostKeyError, match=r"not known \(host certificates, @cert-authority"):
        connect(settings).run(["true"])


def test_hashed_names_are_known(
    sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    known_hosts.write_text(f"other,{name_of(sshd)} {key_line(sshd)}\n")
    subprocess.run(["ssh-keygen", "-H", "-f", known_hosts], check=True, capture_output=True)
    assert "127.0.0.1" not in known_hosts.read_text()
    assert connect(settings).run(["true"]).returncode == 0


@pytest.mark.parametrize("names", ["127.0.0.1", "x,127.0.0.*", "[127.0.0.?]:*", "!192.0.2.1,*"])
def test_names_that_speak_of_the_host(
    names: str, sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    known_hosts.write_text(f"{names} {key_line(sshd)} a comment\n")
    assert connect(settings).run(["true"]).returncode == 0


@pytest.mark.parametrize(
    "names", ["!127.0.0.1,![127.0.0.1]:*,*", "[127.0.0.1]:1", "#127.0.0.1", "127.0.0.10"]
)
def test_names_that_do_not(
    names: str, sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    known_hosts.write_text(f"{names} {key_line(sshd)}\nnonsense\n{name_of(sshd)} ssh-ed25519 no-base64!\n")
    with pytest.raises(HostKeyError, match="not known"):
        connect(settings).run(["true"])


def test_the_users_own_file_counts_too(
    sshd: PrivateSshd, settings: SshSettings, ssh_config: Path, connect: Connect
) -> None:
    ssh_config.write_text(f"UserKnownHostsFile {sshd.known_hosts}\n{ssh_config.read_text()}")
    assert connect(settings).run(["true"]).returncode == 0


def test_a_file_that_cannot_be_read_trusts_nothing(
    settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    known_hosts.mkdir()
    with pytest.raises(HostKeyError, match="cannot read the known hosts"):
        connect(settings).run(["true"])


# ---------------------------------------------------------------------- trusting


def test_a_key_is_shown_then_trusted(
    sshd: PrivateSshd, settings: SshSettings, known_hosts: Path, connect: Connect
) -> None:
    connection = connect(settings)
    shown = connection.fetch_host_key()
    assert not shown.trusted
    assert shown.name == name_of(sshd)
    assert shown.fingerprint == openssh_fingerprint(sshd.folder / "host_key_ed25519.pub")
    assert shown.line == f"{name_of(sshd)} {key_line(sshd)}"
    assert not known_hosts.exists()
    trust(shown, known_hosts)
    assert stat.S_IMODE(known_hosts.stat().st_mode) == 0o600
    assert connection.fetch_host_key().trusted
    assert connection.run(["true"]).returncode == 0
    found = subprocess.run(
        ["ssh-keygen", "-F", shown.name, "-f", known_hosts], capture_output=True, text=True
    )
    assert shown.line in found.stdout, "OpenSSH must read the file as we do"


def test_trust_appends_and_mends_a_missing_line_end(tmp_path: Path) -> None:
    file = tmp_path / "new" / "known_hosts"
    trust(HostKey("a", "ssh-ed25519", b"1"), file)
    file.write_bytes(file.read_bytes().rstrip())
    trust(HostKey("b", "ssh-ed25519", b"2"), file)
    assert file.read_text() == "a ssh-ed25519 MQ==\nb ssh-ed25519 Mg==\n"


def test_trust_names_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file/known_hosts"):
        trust(HostKey("a", "ssh-ed25519", b"1"), tmp_path / "file" / "known_hosts")


def test_fingerprint_of_a_known_key() -> None:
    blob = b"\x00\x00\x00\x0bssh-ed25519"
    expected = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    assert fingerprint(blob) == f"SHA256:{expected}"


def test_nothing_is_known_from_no_file(tmp_path: Path) -> None:
    known = KnownHosts.read("desk", [tmp_path / "missing"])
    assert not known.check(HostKey("board", "ssh-ed25519", b"1"))
    assert known.algorithms("board") == ()
