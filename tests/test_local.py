"""The connection to this very machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.connection import Connection
from devices.local import LocalConnection
from results.errors import ConnectionLost, PreflightError
from tests.connection_contract import ConnectionContract, on_a_small_disk, receive_lines


class TestLocalConnection(ConnectionContract):
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        home = tmp_path / "home of a login"
        home.mkdir()
        return home

    @pytest.fixture
    def connection(self, home: Path) -> Iterator[Connection]:
        with LocalConnection("desk", home=home) as connection:
            yield connection

    @pytest.fixture
    def put_on_full_disk(self, tmp_path: Path) -> Callable[[bytes], type[BaseException] | None]:
        connection = LocalConnection("desk", home=tmp_path)
        return lambda data: on_a_small_disk(tmp_path, lambda: connection.put(data, "folder/file"))


def test_home_is_the_users_own_by_default() -> None:
    with LocalConnection("desk") as connection:
        assert connection.run(["pwd", "-P"]).stdout.decode().strip() == str(Path.home().resolve())


def test_a_closed_connection_starts_nothing(tmp_path: Path) -> None:
    connection = LocalConnection("desk", home=tmp_path)
    connection.close()
    with pytest.raises(ConnectionLost, match="closed"):
        connection.run(["true"])


def test_put_where_nothing_can_be_written_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PreflightError, match="file/below"):
        LocalConnection("desk", home=tmp_path).put(b"x", "file/below")


def test_close_frees_a_reader_in_another_thread(tmp_path: Path) -> None:
    connection = LocalConnection("desk", home=tmp_path)
    channel = connection.open(["sleep", "600"])
    ends: list[object] = []

    def receive() -> None:
        try:
            ends.append(channel.receive(60.0))
        except ConnectionLost as error:
            ends.append(type(error))

    reader = threading.Thread(target=receive)
    reader.start()
    time.sleep(0.05)
    connection.close()
    reader.join(10.0)
    assert ends in ([b""], [ConnectionLost])


def test_close_does_not_wait_for_what_left_the_group(tmp_path: Path) -> None:
    connection = LocalConnection("desk", home=tmp_path)
    channel = connection.open(["sh", "-c", "setsid sleep 600 & echo $!; wait"])
    (pid,) = receive_lines(channel, 1)
    try:
        started_s = time.monotonic()
        connection.close()
        assert time.monotonic() - started_s < 30
    finally:
        os.kill(int(pid), signal.SIGKILL)
