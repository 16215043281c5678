"""The lab file: what is read, what is refused and how, what editing keeps."""

from __future__ import annotations

import multiprocessing
import re
import stat
from pathlib import Path

import pytest

from devices.board_models import board_models, identify
from devices.device import DeviceEntry, Seen, connect
from devices.local import LocalConnection
from devices.registry import Lab
from results.errors import ConfigError

SEEN = Seen(
    at="2026-11-24T08:00:00+00:00",
    model="Raspberry Pi 5 Model B Rev 1.0",
    unit="0123456789abcdef",
    machine="aarch64",
    os="Debian GNU/Linux 12 (bookworm)",
    libc="glibc 2.36",
    python="3.11.2",
    cpus=4,
    memory_bytes=8 << 30,
)
EDITED = """\
# Our lab.

[devices.pi5]  # on the desk
connection = "ssh"
address = "pi@192.0.2.7"  # its fixed address

# The old ones:
[devices.nano]
address = "nano"
identity_file = "keys/nano"
# End.
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lab" / "lab.toml"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Lab.load(written(path, text))
    return str(caught.value)


# --------------------------------------------------------------------------- reading


def test_a_missing_file_is_an_empty_lab(path: Path) -> None:
    assert Lab.load(path).entries == {}
    assert not path.parent.exists()


def test_the_default_file_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert Lab.load().path == tmp_path / "boardwise" / "lab.toml"


def test_entries_are_read_in_order_with_defaults(path: Path) -> None:
    lab = Lab.load(written(path, EDITED))
    assert list(lab.entries) == ["pi5", "nano"]
    nano = lab.entry("nano")
    assert (nano.connection, nano.python, nano.directory) == ("ssh", "python3", ".cache/boardwise")
    assert nano.identity_file == str(path.parent / "keys" / "nano")
    assert nano.known_hosts == str(path.parent / "known_hosts") == str(lab.known_hosts)


def test_a_home_is_expanded_in_file_names(path: Path) -> None:
    lab = Lab.load(written(path, '[devices.a]\naddress = "h"\nidentity_file = "~/keys/a"\n'))
    assert lab.entry("a").identity_file == str(Path.home() / "keys" / "a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[devices.pi5]\nadress = 'pi@h'\n", ["[devices.pi5]", "'adress'", "did you mean 'address'"]),
        ("[device.pi5]\naddress = 'pi@h'\n", ["'device'", "did you mean 'devices'"]),
        ("[devices.pi5]\naddress = 7\n", ["[devices.pi5]", "address", "7"]),
        (
            "[devices.pi5]\nconnection = 'shh'\naddress = 'h'\n",
            ["[devices.pi5]", "connection", "'shh'", "'ssh'"],
        ),
        ("[devices.pi5]\n", ["[devices.pi5]", "address is missing", "[user@]host[:port]"]),
        ("[devices.pi5]\naddress = 'h:port'\n", ["[devices.pi5]", "address", "'h:port'"]),
        (
            "[devices.here]\nconnection = 'local'\naddress = 'h'\n",
            ["[devices.here]", "address", "'h'", "left out"],
        ),
        ("[devices.pi5]\naddress = 'h'\npython = ' '\n", ["[devices.pi5]", "python", "empty"]),
        (
            "[devices.pi5]\naddress = 'h'\ndirectory = '~/b'\n",
            ["[devices.pi5]", "directory", "'~/b'", "home"],
        ),
        (
            "[devices.pi5]\naddress = 'h'\npower_switch = {pin = 4}\n",
            ["[devices.pi5]", "power_switch", "kind"],
        ),
        (
            "[devices.pi5]\naddress = 'h'\n[devices.pi5.seen]\nat = 'now'\n",
            ["[devices.pi5.seen]", "model", "missing"],
        ),
        ("[devices.'pi 5']\naddress = 'h'\n", ["'pi 5'", "letters, digits"]),
        ("[devices.pi5]\naddress = 'h'\n[devices.pi5]\naddress = 'h'\n", ["not valid TOML", "pi5"]),
        ("[devices.pi5\n", ["not valid TOML", "line 1"]),
        ("devices = 3\n", ["devices", "3", "table"]),
    ],
)
def test_errors_name_file_table_key_value_and_remedy(path: Path, text: str, expected: list[str]) -> None:
    message = refusal(path, text)
    for part in [str(path), *expected]:
        assert part in message


def test_an_unknown_name_is_answered_with_the_nearest(path: Path) -> None:
    lab = Lab.load(written(path, EDITED))
    with pytest.raises(ConfigError, match=r"unknown device 'pi4'; did you mean 'pi5'.*devices add") as caught:
        lab.entry("pi4")
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be read")):
        Lab.load(path)


@pytest.mark.parametrize("name", ["", "pi 5", "pi/5", "../pi", "-pi", "pi.5", "pi5\n"])
def test_names_that_cannot_stand_in_file_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        DeviceEntry(name, "local")


# --------------------------------------------------------------------------- editing


def test_what_is_added_is_read_back_equal(path: Path) -> None:
    lab = Lab.load(path)
    local = DeviceEntry(
        "here", "local", python="/usr/bin/python3", power_switch={"kind": "command", "on": "wake"}
    )
    board = DeviceEntry(
        "pi5",
        address="pi@192.0.2.7:2222",
        board="raspberry-pi-5",
        identity_file="/keys/pi5",
        known_hosts=str(lab.known_hosts),
        seen=SEEN,
    )
    lab.add(local)
    lab.add(board)
    assert Lab.load(path).entries == lab.entries == {"here": local, "pi5": board}
    assert "known_hosts" not in path.read_text()


def test_comments_and_order_are_kept(path: Path) -> None:
    lab = Lab.load(written(path, EDITED))
    lab.add(DeviceEntry("here", "local"))
    assert path.read_text().startswith(EDITED)
    lab.remove("here")
    assert path.read_text().rstrip() == EDITED.rstrip()


def test_removing_keeps_the_comments_above_the_next_device(path: Path) -> None:
    lab = Lab.load(written(path, EDITED))
    lab.remove("pi5")
    text = path.read_text()
    assert "# Our lab." in text
    assert "# The old ones:\n[devices.nano]" in text
    assert "pi5" not in text
    lab.remove("nano")
    assert lab.entries == Lab.load(path).entries == {}
    assert "# End." in path.read_text()


def test_removing_takes_the_tables_below_a_device_along(path: Path) -> None:
    lab = Lab.load(path)
    lab.add(DeviceEntry("pi5", address="h", seen=SEEN, power_switch={"kind": "command"}))
    lab.add(DeviceEntry("pi5-twin", address="h"))
    lab.remove("pi5")
    assert list(Lab.load(path).entries) == ["pi5-twin"]
    assert "seen" not in path.read_text()


def test_a_device_of_an_inline_table_can_be_removed_but_none_added(path: Path) -> None:
    lab = Lab.load(written(path, "devices = {a = {address = 'h'}, b = {address = 'i'}}\n"))
    lab.remove("a")
    assert list(Lab.load(path).entries) == ["b"]
    with pytest.raises(ConfigError, match=r"a table of its own, \[devices.NAME\]"):
        lab.add(DeviceEntry("here", "local"))


def test_updating_keeps_what_people_wrote(path: Path) -> None:
    lab = Lab.load(written(path, EDITED))
    lab.update("pi5", "raspberry-pi-5", SEEN)
    assert lab.entry("pi5").seen == SEEN
    assert lab.entry("pi5").board == "raspberry-pi-5"
    text = path.read_text()
    assert "# on the desk" in text
    assert "# its fixed address" in text
    assert Lab.load(path).entries == lab.entries


def test_a_name_that_is_taken_is_refused(path: Path) -> None:
    lab = Lab.load(written(path, EDITED))
    with pytest.raises(ConfigError, match=r"\[devices.pi5\] is there already.*devices remove pi5"):
        lab.add(DeviceEntry("pi5", "local"))
    assert path.read_text() == EDITED


def test_a_name_that_is_not_there_cannot_be_removed(path: Path) -> None:
    lab = Lab.load(written(path, EDITED))
    with pytest.raises(ConfigError, match="unknown device 'nanno'; did you mean 'nano'"):
        lab.remove("nanno")
    assert path.read_text() == EDITED


def test_a_broken_file_is_left_as_it_is(path: Path) -> None:
    lab = Lab.load(path)
    written(path, "[devices.pi5\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        lab.add(DeviceEntry("here", "local"))
    assert path.read_text() == "[devices.pi5\n"


def test_a_link_stays_a_link_and_the_mode_stays(path: Path, tmp_path: Path) -> None:
    target = written(tmp_path / "dotfiles" / "lab.toml", EDITED)
    target.chmod(0o640)
    path.parent.mkdir(parents=True)
    path.symlink_to(target)
    Lab.load(path).add(DeviceEntry("here", "local"))
    assert path.is_symlink()
    assert "here" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    written(tmp_path / "file", "")
    with pytest.raises(ConfigError, match=r"lab.toml: cannot be written: (Not a directory|File exists)"):
        Lab(tmp_path / "file" / "lab.toml", {}).add(DeviceEntry("here", "local"))


def _add_many(path: Path, start: int) -> None:
    for number in range(start, start + 8):
        Lab.load(path).add(DeviceEntry(f"board{number}", "local"))


def test_processes_that_add_at_the_same_time_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_many, args=(path, 8 * number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert set(Lab.load(path).entries) == {f"board{number}" for number in range(32)}


# --------------------------------------------------------------------------- devices and boards


def test_a_local_device_is_connected_to_directly() -> None:
    with connect(DeviceEntry("here", "local")) as connection:
        assert isinstance(connection, LocalConnection)
        assert connection.device == "here"


def test_a_replay_device_is_no_machine() -> None:
    with pytest.raises(ConfigError, match=r"'old'.*composes replay devices"):
        connect(DeviceEntry("old", "replay", "runs/old"))


@pytest.mark.parametrize(
    ("model", "board"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("Raspberry Pi 400 Rev 1.0", "raspberry-pi-4"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberry-pi-3"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberry-pi-zero-2-w"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("linux,dummy-virt", "generic-linux"),
    ],
)
def test_boards_are_told_by_their_device_tree(model: str, board: str) -> None:
    assert identify(model).name == board


def test_every_board_file_is_complete() -> None:
    for board in board_models().values():
        assert board.title
        assert board.energy
        assert board.throttle
