"""What every :class:`devices.connection.Connection` must do; subclass it and give the three fixtures.

Files and processes are looked at past the connection: as those of this machine, unless a subclass says how
else.  The class is not named ``Test...``: only its subclasses are collected.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.connection import Channel, Connection
from results.errors import BoardDiskFull, ConnectionLost

ODD_WORDS = ["a b", "'", '"', "$HOME", "*", "", "\\n", ";", "é", "two\nlines", "-n", "`id`", "~", "&&", "#"]
EVERY_BYTE = bytes(range(256)) * 1200
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


def is_running(pid: int) -> bool:
    """Whether a process exists and is more than a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: list[int], within_s: float = 10.0, lives: Callable[[int], bool] = is_running) -> bool:
    """Whether all processes have ended; waits for them a while, since the kernel may take its time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(lives(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def receive_lines(channel: Channel, count: int) -> list[str]:
    """The next ``count`` lines of a channel's stdout."""
    data = b""
    while data.count(b"\n") < count:
        more = channel.receive(10.0)
        assert more, f"end of file after {data!r}"
        data += more
    return data.decode().splitlines()


def on_a_small_disk(folder: Path, action: Callable[[], None]) -> type[BaseException] | None:
    """Runs ``action`` in a child for which ``folder`` is a file system of 64 KiB; gives the error's type.

    The child has a mount name space of its own, so no privilege is needed and nothing stays mounted.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child touches none of theirs
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.write(writing, _error_of(folder, action).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        name = pipe.read().decode()
    os.waitpid(pid, 0)
    known = {"": None, "BoardDiskFull": BoardDiskFull, "ConnectionLost": ConnectionLost}
    assert name in known, f"the action on the small disk failed: {name}"
    return known[name]


def _error_of(folder: Path, action: Callable[[], None]) -> str:
    try:
        mount_small_disk(folder)
        action()
    except Exception as error:  # noqa: BLE001 - carried to the parent by name
        return type(error).__name__ if isinstance(error, BoardDiskFull | ConnectionLost) else repr(error)
    return ""


def mount_small_disk(folder: Path) -> None:
    """Enters a name space in which ``folder`` is a tmpfs of 64 KiB (root, or a user name space)."""
    libc = ctypes.CDLL(None, use_errno=True)
    spaces = CLONE_NEWNS if os.geteuid() == 0 else CLONE_NEWNS | CLONE_NEWUSER
    if libc.unshare(spaces) or libc.mount(b"none", b"/", None, 1 << 14 | 1 << 18, None):
        raise OSError(ctypes.get_errno(), "cannot enter a mount name space")
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=64k"):
        raise OSError(ctypes.get_errno(), f"cannot mount a tmpfs at {folder}")


class ConnectionContract:
    """The contract.  Subclasses override the first three fixtures; of another machine all five."""

    @pytest.fixture
    def home(self) -> Path:
        """The login's home directory, empty but for hidden files."""
        raise NotImplementedError

    @pytest.fixture
    def connection(self, home: Path) -> Iterator[Connection]:
        """A fresh connection whose login has that home."""
        raise NotImplementedError

    @pytest.fixture
    def put_on_full_disk(self) -> Callable[[bytes], type[BaseException] | None]:
        """Puts data on a file system of 64 KiB through such a connection; gives the error's type."""
        raise NotImplementedError

    @pytest.fixture
    def elsewhere(self, tmp_path: Path) -> Path:
        """A folder outside of the home where the login may write."""
        return tmp_path

    @pytest.fixture
    def lives(self) -> Callable[[int], bool]:
        """Whether a process that was started through the connection still runs."""
        return is_running

    # ------------------------------------------------------------------ run

    def test_run_gives_status_and_both_streams(self, connection: Connection) -> None:
        done = connection.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (done.returncode, done.stdout, done.stderr.strip()) == (3, b"out\n", b"err")

    def test_run_passes_stdin_unchanged(self, connection: Connection) -> None:
        assert connection.run(["cat"], stdin=EVERY_BYTE).stdout == EVERY_BYTE

    def test_run_without_stdin_sees_the_end_at_once(self, connection: Connection) -> None:
        assert connection.run(["cat"], limit_s=10).stdout == b""

    def test_run_passes_every_word_unchanged(self, connection: Connection) -> None:
        done = connection.run(["printf", "%s\\0", *ODD_WORDS])
        assert done.stdout.decode().split("\0")[:-1] == ODD_WORDS

    def test_run_takes_long_output_from_both_streams(self, connection: Connection) -> None:
        script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"
        done = connection.run(["sh", "-c", script])
        assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)

    def test_run_of_a_missing_program_is_127(self, connection: Connection) -> None:
        done = connection.run(["/nowhere/no-such-program"])
        assert done.returncode == 127
        assert b"no-such-program" in done.stderr

    def test_run_starts_in_the_home_directory(self, connection: Connection, home: Path) -> None:
        assert connection.run(["pwd", "-P"]).stdout.decode().strip() == str(home.resolve())

    def test_run_over_its_limit_is_lost_and_does_not_outlive_the_connection(
        self, connection: Connection, home: Path, lives: Callable[[int], bool]
    ) -> None:
        with pytest.raises(ConnectionLost, match=r"1 s|1\.0 s"):
            connection.run(["sh", "-c", "echo $$ > pid; sleep 600; true"], limit_s=1.0)
        connection.close()
        assert gone([int((home / "pid").read_text())], lives=lives)

    # ------------------------------------------------------------------ open

    def test_a_channel_holds_a_conversation(self, connection: Connection) -> None:
        channel = connection.open(["cat"])
        for word in (b"one\n", b"\x00\xff two\n"):
            channel.send(word)
            assert channel.receive(10.0) == word
        channel.close()

    def test_a_channel_passes_every_word_unchanged(self, connection: Connection) -> None:
        channel = connection.open(["printf", "%s\\0", *ODD_WORDS])
        data = b""
        while more := channel.receive(10.0):
            data += more
        assert data.decode().split("\0")[:-1] == ODD_WORDS

    def test_a_channel_passes_much_data_unchanged(self, connection: Connection) -> None:
        channel = connection.open(["sh", "-c", "head -c 307200 > got; wc -c < got; cat got"])
        channel.send(EVERY_BYTE)
        data = b""
        while more := channel.receive(10.0):
            data += more
        assert data == b"307200\n" + EVERY_BYTE

    def test_receive_over_its_limit_times_out_and_the_channel_lives(self, connection: Connection) -> None:
        channel = connection.open(["cat"])
        with pytest.raises(TimeoutError):
            channel.receive(0.05)
        channel.send(b"still here")
        assert channel.receive(10.0) == b"still here"

    def test_receive_gives_what_is_left_and_then_the_end(self, connection: Connection) -> None:
        channel = connection.open(["sh", "-c", "printf last; exit 1"])
        assert channel.receive(10.0) == b"last"
        assert channel.receive(10.0) == b""
        assert channel.receive(10.0) == b""

    def test_send_to_what_has_ended_is_lost(self, connection: Connection) -> None:
        channel = connection.open(["true"])
        assert channel.receive(10.0) == b""

        def send_on() -> None:
            for _ in range(1000):
                channel.send(b"x" * 65536)
                time.sleep(0.01)

        with pytest.raises(ConnectionLost):
            send_on()

    def test_stderr_tail_keeps_the_last_4_kib(self, connection: Connection) -> None:
        script = "head -c 9000 /dev/zero | tr '\\0' x >&2; printf 'the \\377 end' >&2"
        channel = connection.open(["sh", "-c", script])
        assert channel.receive(10.0) == b""
        deadline = time.monotonic() + 10
        while not channel.stderr_tail().endswith("end") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert channel.stderr_tail().endswith("the \N{REPLACEMENT CHARACTER} end")
        assert len(channel.stderr_tail()) <= 4096

    def test_close_ends_the_whole_process_group(
        self, connection: Connection, lives: Callable[[int], bool]
    ) -> None:
        channel = connection.open(["sh", "-c", "echo $$; sleep 600 & echo $!; sleep 600 & echo $!; wait"])
        pids = [int(line) for line in receive_lines(channel, 3)]
        assert all(lives(pid) for pid in pids)
        channel.close()
        channel.close()
        assert gone(pids, lives=lives)

    def test_close_ends_what_ignores_signals_and_end_of_input(
        self, connection: Connection, lives: Callable[[int], bool]
    ) -> None:
        script = "trap '' TERM HUP INT PIPE; echo $$; sleep 600 & echo $!; while :; do sleep 0.1; done"
        channel = connection.open(["sh", "-c", script])
        pids = [int(line) for line in receive_lines(channel, 2)]
        channel.close()
        assert gone(pids, lives=lives)

    def test_closing_the_connection_ends_its_channels(
        self, connection: Connection, lives: Callable[[int], bool]
    ) -> None:
        channels = [connection.open(["sh", "-c", "echo $$; exec sleep 600"]) for _ in range(2)]
        pids = [int(receive_lines(channel, 1)[0]) for channel in channels]
        connection.close()
        connection.close()
        assert gone(pids, lives=lives)
        for channel in channels:
            channel.close()

    # ------------------------------------------------------------------ put

    def test_put_relative_paths_start_at_home_and_parents_are_made(
        self, connection: Connection, home: Path
    ) -> None:
        connection.put(EVERY_BYTE, "deep/er/it's a file")
        assert (home / "deep" / "er" / "it's a file").read_bytes() == EVERY_BYTE

    def test_put_takes_absolute_paths(self, connection: Connection, elsewhere: Path) -> None:
        connection.put(b"", str(elsewhere / "elsewhere" / "empty"))
        assert (elsewhere / "elsewhere" / "empty").read_bytes() == b""

    def test_put_replaces_whole_and_leaves_nothing_beside(self, connection: Connection, home: Path) -> None:
        connection.put(b"old", "folder/file")
        with (home / "folder" / "file").open("rb") as reader:
            connection.put(b"new and longer", "folder/file")
            assert reader.read() == b"old", "the old file was written over, not replaced"
        assert (home / "folder" / "file").read_bytes() == b"new and longer"
        assert [path.name for path in (home / "folder").iterdir()] == ["file"]

    def test_put_on_a_full_disk_says_so(
        self, put_on_full_disk: Callable[[bytes], type[BaseException] | None]
    ) -> None:
        assert put_on_full_disk(b"x" * 1000) is None
        assert put_on_full_disk(b"x" * 1_000_000) is BoardDiskFull
