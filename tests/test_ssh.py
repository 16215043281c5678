"""The connection over SSH, against real OpenSSH servers."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devices import ssh_process
from devices.connection import Connection
from devices.ssh import SshConnection
from devices.ssh_config import SshAddress
from devices.ssh_route import SshSettings
from examples.private_sshd import PrivateSshd, is_locked
from results.errors import ConfigError, ConnectionLost, PreflightError
from tests.connection_contract import (
    ConnectionContract,
    gone,
    is_running,
    on_a_small_disk,
    receive_lines,
)
from tests.fixtures_ssh import Connect

pytestmark = pytest.mark.ssh

DEAF = "trap '' TERM HUP INT PIPE; echo $$; while :; do sleep 0.1; done"
"""A shell script that says its number and then heeds neither signals nor the end of its input."""


class TestSshConnection(ConnectionContract):
    @pytest.fixture
    def home(self, sshd_home: Path) -> Path:
        return sshd_home

    @pytest.fixture
    def connection(self, sshd: PrivateSshd, connect: Connect) -> Iterator[Connection]:
        return connect(sshd)  # closed by its fixture

    @pytest.fixture
    def put_on_full_disk(
        self, tmp_path: Path, settings_for: Callable[[PrivateSshd], SshSettings]
    ) -> Callable[[bytes], type[BaseException] | None]:
        small = tmp_path / "small"
        small.mkdir()
        user, group = os.getuid(), os.getgid()

        def put(data: bytes) -> None:
            if os.getuid() != user:
                # In a user name space of its own, which must know the user whom sshd lets in.
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
                Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
            # Inside, so that the server sees the small disk too.
            with (
                PrivateSshd(tmp_path / "sshd", home=small) as server,
                SshConnection("desk", settings_for(server)) as connection,
            ):
                connection.put(data, "folder/file")

        return lambda data: on_a_small_disk(small, lambda: put(data))


def test_the_constructor_connects_to_nothing(ssh_config: Path, tmp_path: Path) -> None:
    address = SshAddress("192.0.2.1", "nobody", 9)
    SshConnection("desk", SshSettings(address, tmp_path / "known_hosts", config_file=ssh_config)).close()


def test_a_closed_connection_starts_nothing(sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(sshd)
    connection.run(["true"])
    connection.close()
    with pytest.raises(ConnectionLost, match="closed"):
        connection.run(["true"])


def test_one_transport_serves_all_commands(sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(sshd)
    clients = {connection.run(["sh", "-c", "echo $SSH_CLIENT"]).stdout for _ in range(3)}
    assert len(clients) == 1


def test_packets_are_not_held_back(sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(sshd)
    connection.run(["true"])
    assert connection._transport is not None
    end = connection._transport.sock
    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 35_000


def test_two_megabytes_arrive_whole(sshd: PrivateSshd, connect: Connect) -> None:
    data = bytes(range(256)) * 8000
    channel = connect(sshd).open(["sh", "-c", f"head -c {len(data)} | sha256sum"])
    channel.send(data)
    assert receive_lines(channel, 1)[0].split()[0] == hashlib.sha256(data).hexdigest()


def test_input_longer_than_all_buffers_does_not_lock_up_with_output(
    sshd: PrivateSshd, connect: Connect
) -> None:
    data = b"0123456789abcdef" * 500_000
    assert connect(sshd).run(["cat"], stdin=data, limit_s=60).stdout == data


def test_a_command_may_leave_its_input_unread(sshd: PrivateSshd, connect: Connect) -> None:
    done = connect(sshd).run(["sh", "-c", "echo enough"], stdin=b"x" * 5_000_000)
    assert (done.returncode, done.stdout) == (0, b"enough\n")


def test_a_command_that_says_too_much_is_given_up(
    sshd: PrivateSshd, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_process, "OUTPUT_LIMIT_BYTES", 1_000_000)
    with pytest.raises(ConnectionLost, match="more than 1000000 bytes"):
        connect(sshd).run(["cat", "/dev/zero"])


def test_a_process_that_reads_nothing_is_lost(
    sshd: PrivateSshd, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_process, "STALL_LIMIT_S", 0.3)
    channel = connect(sshd).open(["sleep", "600"])
    with pytest.raises(ConnectionLost, match=r"read nothing for 0\.3 s"):
        channel.send(b"x" * 10_000_000)


def test_the_status_of_what_a_signal_has_ended(sshd: PrivateSshd, connect: Connect) -> None:
    assert connect(sshd).run(["sh", "-c", "kill -KILL $$"]).returncode == -1


def test_close_ends_processes_that_left_the_group(sshd: PrivateSshd, connect: Connect) -> None:
    channel = connect(sshd).open(["sh", "-c", "setsid sh -c 'echo $$; exec sleep 600' & exec sleep 600"])
    pid = int(receive_lines(channel, 1)[0])
    assert is_running(pid)
    channel.close()
    assert gone([pid])


def test_closing_one_channel_leaves_the_others(sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(sshd)
    channels = [connection.open(["cat"]) for _ in range(12)]  # "...-1-" must not catch "...-11-"
    channels[1].close()
    for channel in channels[2:]:
        channel.send(b"here")
        assert channel.receive(10.0) == b"here"


def test_the_search_for_processes_does_not_find_itself(sshd: PrivateSshd, connect: Connect) -> None:
    # The server has a ForceCommand, so each command stands in its own environment.
    connection = connect(sshd)
    assert connection.run(["sh", "-c", "echo $SSH_ORIGINAL_COMMAND"]).stdout.startswith(b"env BOARDWISE")
    channel = connection.open(["cat"])
    assert connection._transport is not None
    assert ssh_process._signal(connection._transport, "desk", connection._mark, "0")
    channel.close()
    assert not ssh_process._signal(connection._transport, "desk", connection._mark, "0")


def test_close_lets_a_process_end_by_itself(sshd: PrivateSshd, connect: Connect, sshd_home: Path) -> None:
    channel = connect(sshd).open(["sh", "-c", "cat > /dev/null; sleep 0.1; echo done > tidied"])
    channel.close()
    assert (sshd_home / "tidied").read_text() == "done\n"


def test_closing_the_connection_ends_what_commands_left_running(sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(sshd)
    script = "sleep 600 >/dev/null 2>&1 </dev/null & echo $!"
    pid = int(connection.run(["sh", "-c", script]).stdout)
    assert is_running(pid)
    connection.close()
    assert gone([pid])


def test_close_frees_a_reader_in_another_thread(sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(sshd)
    channel = connection.open(["sleep", "600"])
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(channel.receive(60.0)))
    reader.start()
    connection.close()
    reader.join(10.0)
    assert got == [b""]
    with pytest.raises(ConnectionLost, match="closed"):
        channel.receive(1.0)


def test_close_frees_a_command_in_another_thread(sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(sshd)
    connection.run(["true"])
    errors: list[Exception] = []

    def run() -> None:
        try:
            connection.run(["sh", "-c", "echo; exec sleep 600"], limit_s=60)
        except ConnectionLost as error:
            errors.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    time.sleep(0.2)
    connection.close()
    runner.join(10.0)
    assert "closed" in str(errors[0])


def test_no_thread_is_left(sshd: PrivateSshd, connect: Connect) -> None:
    before = set(threading.enumerate())
    connection = connect(sshd)
    connection.open(["cat"])
    connection.run(["true"])
    connection.close()
    assert set(threading.enumerate()) <= before


def test_put_where_nothing_can_be_written_names_the_path(
    sshd: PrivateSshd, connect: Connect, sshd_home: Path
) -> None:
    (sshd_home / "file").write_bytes(b"")
    with pytest.raises(PreflightError, match="cannot write file/below: mkdir"):
        connect(sshd).put(b"x", "file/below")


def test_put_keeps_the_old_file_where_the_new_one_cannot_replace_it(
    sshd: PrivateSshd, connect: Connect, sshd_home: Path
) -> None:
    (sshd_home / "folder").mkdir()
    (sshd_home / "folder" / "inside").write_bytes(b"")
    with pytest.raises(PreflightError, match="folder"):
        connect(sshd).put(b"x", "folder/inside/deeper")
    assert [path.name for path in (sshd_home / "folder").iterdir()] == ["inside"]


# ---------------------------------------------------------------------- losses


def test_a_put_that_is_cut_in_the_middle_changes_nothing(own_sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(own_sshd)
    connection.put(b"old", "file")
    home = Path(connection.run(["pwd"]).stdout.decode().strip())
    data = b"x" * 200_000_000
    cutter = threading.Timer(0.1, own_sshd.cut)
    cutter.start()
    with pytest.raises(ConnectionLost):
        connection.put(data, "file")
    cutter.join()
    deadline = time.monotonic() + 10
    while [path.name for path in home.iterdir()] != ["file"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [path.name for path in home.iterdir()] == ["file"]
    assert (home / "file").read_bytes() == b"old"


def test_a_cut_connection_is_lost_and_the_next_use_makes_another(
    own_sshd: PrivateSshd, connect: Connect
) -> None:
    connection = connect(own_sshd)
    channel = connection.open(["cat"])
    channel.send(b"x")
    assert channel.receive(10.0) == b"x"
    own_sshd.cut()
    with pytest.raises(ConnectionLost, match="lost"):
        channel.receive(10.0)
    assert connection.run(["echo", "again"]).stdout == b"again\n"
    with pytest.raises(ConnectionLost):
        channel.send(b"x")
    channel.close()
    assert connection.run(["echo", "still"]).stdout == b"still\n"


def test_a_command_that_is_cut_in_the_middle_is_lost(own_sshd: PrivateSshd, connect: Connect) -> None:
    connection = connect(own_sshd)
    connection.run(["true"])
    cutter = threading.Timer(0.3, own_sshd.cut)
    cutter.start()
    with pytest.raises(ConnectionLost):
        connection.run(["sleep", "600"], limit_s=60)
    cutter.join()


def test_what_a_lost_connection_left_running_is_ended_after_the_next(
    own_sshd: PrivateSshd, connect: Connect
) -> None:
    connection = connect(own_sshd)
    channel = connection.open(["sh", "-c", DEAF])
    pid = int(receive_lines(channel, 1)[0])
    own_sshd.cut()
    with pytest.raises(ConnectionLost):
        channel.receive(10.0)
    channel.close()
    assert is_running(pid)
    connection.run(["true"])
    assert gone([pid])


def test_a_server_that_went_away_is_unreachable_and_comes_back(
    own_sshd: PrivateSshd, connect: Connect
) -> None:
    connection = connect(own_sshd)
    connection.run(["true"])
    own_sshd.stop()
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            connection.run(["true"])
    with pytest.raises(ConnectionLost, match=rf"127\.0\.0\.1 port {own_sshd.port}.*refused.*is the board on"):
        connection.run(["true"])
    own_sshd.start()
    assert connection.run(["echo", "back"]).stdout == b"back\n"


def test_an_unknown_name_says_so(ssh_config: Path, tmp_path: Path, connect: Connect) -> None:
    address = SshAddress("no-such-board.invalid", "pi")
    settings = SshSettings(address, tmp_path / "known_hosts", config_file=ssh_config)
    with pytest.raises(ConnectionLost, match=r"the name no-such-board\.invalid is not known"):
        connect(settings).run(["true"])


def test_what_does_not_speak_ssh_says_so(
    ssh_config: Path, tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            end, _ = server.accept()
            end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            end.close()

        answering = threading.Thread(target=hang_up)
        answering.start()
        settings = SshSettings(
            SshAddress("127.0.0.1", "pi", port), tmp_path / "known_hosts", config_file=ssh_config
        )
        with pytest.raises(ConnectionLost, match=rf"127\.0\.0\.1 port {port} does not speak SSH"):
            connect(settings).run(["true"])
        answering.join()
    assert set(threading.enumerate()) <= before, "a failed handshake must leave no timer behind"


def test_a_server_without_room_for_more_commands_says_so(
    tmp_path: Path, settings_for: Callable[[PrivateSshd], SshSettings]
) -> None:
    with (
        PrivateSshd(tmp_path / "narrow", options=["MaxSessions 2"], home=tmp_path) as server,
        SshConnection("desk", settings_for(server)) as connection,
    ):
        channels = [connection.open(["cat"]) for _ in range(2)]
        with pytest.raises(ConnectionLost, match="MaxSessions"):
            connection.open(["cat"])
        for channel in channels:
            channel.close()
        assert connection.run(["true"]).returncode == 0


def test_no_secret_or_traceback_reaches_stderr(
    own_sshd: PrivateSshd, connect: Connect, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = connect(own_sshd)
    connection.run(["true"])
    own_sshd.stop()
    with pytest.raises(ConnectionLost):
        connection.run(["true"])
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------- the private server


def test_a_missing_identity_file_is_named(
    sshd: PrivateSshd, settings_for: Callable[[PrivateSshd], SshSettings], connect: Connect, tmp_path: Path
) -> None:
    settings = replace(settings_for(sshd), identity_file=tmp_path / "no-such-key")
    with pytest.raises(ConfigError, match="no-such-key"):
        connect(settings).run(["true"])


def test_a_port_that_is_taken_is_named(sshd: PrivateSshd, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"port {sshd.port}.*Address already in use"):
        PrivateSshd(tmp_path / "second", port=sshd.port).start()


def test_accounts_that_are_closed_to_passwords(tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.write_text("root:!*:1::::::\npi:$y$j9T$x:1::::::\nnobody:*:1::::::\n")
    assert [is_locked(user, shadow) for user in ("root", "pi", "nobody", "else")] == [
        True,
        False,
        False,
        False,
    ]
    assert not is_locked("root", tmp_path / "missing")


def test_starting_twice_starts_one(own_sshd: PrivateSshd, connect: Connect) -> None:
    own_sshd.start()
    assert connect(own_sshd).run(["true"]).returncode == 0


def test_the_server_leaves_no_account_and_no_folder_on_the_machine(
    own_sshd: PrivateSshd, connect: Connect
) -> None:
    def state() -> tuple[str, bool]:
        return Path("/etc/passwd").read_text(), Path("/run/sshd").exists()

    before = state()
    seen = connect(own_sshd).run(["sh", "-c", "cat /etc/passwd; ls /run; id -un"]).stdout.decode()
    assert state() == before
    assert before[0] in seen
    assert {path.name for path in Path("/run").iterdir()} <= set(seen.split())
    assert seen.split()[-1] == own_sshd.user


def test_the_own_folder_of_the_server_is_left_empty_of_copies_of_accounts(own_sshd: PrivateSshd) -> None:
    names = {path.name for path in own_sshd.folder.rglob("*")}
    assert not names & {"passwd", "shadow"}


def test_a_machine_without_sshd_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ConfigError, match=r"prepare\.sh ssh"):
        PrivateSshd(tmp_path / "none").start()
