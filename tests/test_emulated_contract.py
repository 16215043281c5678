"""The contract of connections, kept by an emulated board: another machine, with a kernel of its own."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from devices.connection import Connection
from devices.device import connect
from devices.emulation.board import EmulatedBoard
from devices.emulation.first_boot import as_root
from results.errors import BoardDiskFull
from tests.connection_contract import ConnectionContract, receive_lines

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

HOME = "/home/pi"
EMPTY_HOME = f"busybox umount {HOME}/small 2> /dev/null; cd {HOME} && rm -rf -- *"
SMALL = f"install -d -o pi {HOME}/small && busybox mount -t tmpfs -o size=64k,mode=777 small {HOME}/small"


class BoardPath:
    """A file on the board, as far as the contract looks at files; through a login of root's own."""

    def __init__(self, root: Connection, path: str) -> None:
        self._root = root
        self._path = PurePosixPath(path)
        self.name = self._path.name

    def __str__(self) -> str:
        return str(self._path)

    def __truediv__(self, name: str) -> BoardPath:
        return BoardPath(self._root, str(self._path / name))

    def resolve(self) -> BoardPath:
        return self

    def read_bytes(self) -> bytes:
        done = self._root.run(["cat", str(self)])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def iterdir(self) -> list[BoardPath]:
        names = self._root.run(["ls", "-A", str(self)]).stdout.decode().splitlines()
        return [self / name for name in names]

    @contextlib.contextmanager
    def open(self, mode: str) -> Iterator[Any]:
        """Open before the block begins, read when the block asks."""
        channel = self._root.open(["sh", "-c", f"exec 3< {shlex.quote(str(self))}; echo; read x; cat <&3"])
        receive_lines(channel, 1)
        yield _Reader(channel)
        channel.close()


class _Reader:
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def read(self) -> bytes:
        self._channel.send(b"\n")
        data = b""
        while more := self._channel.receive(10.0):
            data += more
        return data


@pytest.fixture(scope="module")
def board(shared_pi4: EmulatedBoard) -> EmulatedBoard:
    return shared_pi4


@pytest.fixture(scope="module")
def root(board: EmulatedBoard) -> Iterator[Connection]:
    with connect(as_root(board.entry)) as connection:
        yield connection


class TestEmulatedBoard(ConnectionContract):
    @pytest.fixture
    def home(self, root: Connection) -> BoardPath:  # type: ignore[override]
        assert root.run(["sh", "-c", EMPTY_HOME]).returncode == 0
        return BoardPath(root, HOME)

    @pytest.fixture
    def connection(self, board: EmulatedBoard, home: BoardPath) -> Iterator[Connection]:  # type: ignore[override]
        with connect(board.entry) as connection:
            yield connection

    @pytest.fixture
    def put_on_full_disk(
        self, root: Connection, connection: Connection
    ) -> Callable[[bytes], type[BaseException] | None]:
        assert root.run(["sh", "-c", SMALL]).returncode == 0

        def put(data: bytes) -> type[BaseException] | None:
            try:
                connection.put(data, "small/folder/file")
            except BoardDiskFull as error:
                return type(error)
            return None

        return put

    @pytest.fixture
    def elsewhere(self, root: Connection) -> BoardPath:  # type: ignore[override]
        assert root.run(["rm", "-rf", "/tmp/elsewhere"]).returncode == 0
        return BoardPath(root, "/tmp")

    @pytest.fixture
    def lives(self, root: Connection) -> Callable[[int], bool]:
        def is_running(pid: int) -> bool:
            fields = root.run(["cat", f"/proc/{pid}/stat"]).stdout.rpartition(b")")[2].split()
            return bool(fields) and fields[0] not in (b"Z", b"X")

        return is_running
