"""`boardwise devices emulate` as its user types it, on a real emulated board."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devices.emulation.board import EmulatedBoard
from devices.emulation.debian import PrivateApt
from devices.emulation.image import build, file_hash
from devices.emulation.locking import read_file
from devices.emulation.places import CACHE
from devices.emulation.recipe import profile, recipes
from devices.emulation.saved_state import key_of
from devices.registry import Lab
from harness import cli
from results.errors import ConfigError
from tests.tiny_models import onnx_convolution

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900), pytest.mark.usefixtures("image_cache")]

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Bench:
    """A lab file of its own with one emulated board."""

    lab: Path
    name: str

    def emulate(self, *words: str) -> int:
        return cli.main(["devices", "emulate", "pi4", "--name", self.name, "--lab", str(self.lab), *words])


@pytest.fixture(scope="module")
def desk(image_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("emulate") / "lab.toml", f"pytest-{os.getpid()}-cli")
    assert bench.emulate() == 0
    yield bench
    EmulatedBoard(bench.name, "pi4").remove()


def test_a_board_is_started_registered_and_listed(desk: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    entry = Lab.load(desk.lab).entry(desk.name)
    assert entry.board == "raspberry-pi-4"
    assert entry.seen is not None
    before = desk.lab.read_bytes()
    assert desk.emulate("--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["facts"]["model"] == "Raspberry Pi 4 Model B Rev 1.4 (emulated)"
    assert shown["entry"]["address"] == entry.address
    assert desk.lab.read_bytes() == before, "nothing new"
    assert desk.emulate("--list") == 0
    said = capsys.readouterr().out
    assert "Raspberry Pi 4, emulated; onnxruntime and tflite; image built" in said
    assert f"board {desk.name}: pi4, virtual time, paused, {entry.address}" in said


def test_a_model_is_measured_on_it_and_its_figures_say_what_they_are(
    desk: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_convolution())
    words = ["--on", desk.name, "--lab", str(desk.lab), "--sessions", "2", "--out", str(tmp_path / "out")]
    assert cli.main(["bench", str(model), *words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["emulated"].startswith("pi4,qemu-")
    assert row["latency_p50_ms"] > 0
    assert row["load_ms"] is row["cold_ms"] is None
    assert row["load_note"].startswith("load and first run not valid: virtual time")
    with Path(row["csv"]).open() as file:
        assert next(csv.DictReader(file))["load_note"] == row["load_note"]
    assert EmulatedBoard(desk.name, "pi4").is_alive, "who started it by hand keeps it"
    assert not EmulatedBoard(desk.name, "pi4").machine.is_running


def test_the_console_is_a_shell_on_the_board(desk: Bench) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "harness.cli", "devices", "emulate", "pi4", "--name", desk.name]
    with subprocess.Popen(
        [*command, "--lab", str(desk.lab), "--console"], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            said = type_until(ours, b"\n", b"# ")
            said += type_until(ours, b"echo $((6 * 7))-$(uname -m)\n", b"42-aarch64")
            os.write(ours, b"\x1d")
            assert process.wait(timeout=60) == 0, said
        finally:
            process.kill()
            os.close(ours)
    assert not EmulatedBoard(desk.name, "pi4").machine.is_running, "it rests again"


def type_until(terminal: int, keys: bytes, wanted: bytes) -> bytes:
    """Types again and again, since the board may not listen yet, until it has said what is wanted."""
    said, deadline, typed_at = b"", time.monotonic() + 120, 0.0
    os.set_blocking(terminal, False)
    while wanted not in said:
        assert time.monotonic() < deadline, said
        if time.monotonic() - typed_at > 5.0:
            os.write(terminal, keys)
            typed_at = time.monotonic()
        try:
            said += os.read(terminal, 4096)
        except BlockingIOError:
            time.sleep(0.02)
    return said


def test_a_stopped_board_stays_in_the_lab_file(desk: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.emulate("--stop") == 0
    assert f"{desk.name} is stopped" in capsys.readouterr().err
    assert desk.emulate("--list", "--json") == 0
    listed = {board["name"]: board["state"] for board in json.loads(capsys.readouterr().out)["boards"]}
    assert listed[desk.name] == "stopped"
    assert desk.emulate("--stop", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": None}
    assert desk.emulate("--console") == 1
    assert "does not run; start it" in capsys.readouterr().err


def test_several_cpus_run_in_wall_time(image_cache: Path) -> None:
    board = EmulatedBoard(f"pytest-{os.getpid()}-smp", "pi4", clock="wall", cpus=2)
    try:
        board.start("cold")
        assert board.root("nproc").stdout.strip() == b"2"
        clocks = board.root("sh", "-c", "ls -d /run/board/sys/devices/system/cpu/cpu*/cpufreq | wc -l")
        assert clocks.stdout.strip() == b"2"
        assert b"wall-time" in board.root("cat", "/proc/cmdline").stdout
    finally:
        board.remove()


# --------------------------------------------------------------------------- images


@pytest.fixture
def copied_cache(image_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The images alone in a cache of their own; their files are links, to be replaced, not written."""
    built = EmulatedBoard("nobody", "pi4").image()
    images = tmp_path / "cache" / "emulation" / "images"
    images.mkdir(parents=True)
    shutil.copytree(built.folder, images / built.folder.name, copy_function=os.symlink)
    for lock in built.folder.parent.glob("*.lock.json"):
        shutil.copy(lock, images)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_cached_image_needs_no_network_and_no_apt(
    copied_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    said: list[str] = []
    board = EmulatedBoard("offline", "pi4", say=said.append)
    assert board.image().folder.is_relative_to(copied_cache)
    assert said == [], "nothing is built or fetched"


def test_without_a_network_nothing_can_be_built_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    recipe = recipes()[profile("armv7").recipe]
    with pytest.raises(ConfigError, match=r"Debian's packages for armhf cannot be had.*Could not connect"):
        build(recipe, lambda image, say: None, lambda text: None)
    assert not list((tmp_path / "emulation" / "images").glob(".building-*")), "nothing half built stays"


def test_packages_that_were_locked_are_fetched_again(image_cache: Path, tmp_path: Path) -> None:
    image = EmulatedBoard("nobody", "pi4").image()
    package = next(p for p in read_file(image.folder / "lock.json").packages if p.name == "busybox-static")
    apt = PrivateApt(tmp_path / "apt", image.recipe)
    apt.fetch_again([package], lambda text: None)
    assert file_hash(apt.archives / package.filename) == package.sha256
    gone = dataclasses.replace(package, version="0", filename="busybox-static_0_arm64.deb")
    with pytest.raises(ConfigError, match=r"'0'.*busybox-static.*--rebuild"):
        apt.fetch_again([gone], lambda text: None)


def test_an_image_that_was_built_again_has_saved_states_of_its_own(copied_cache: Path) -> None:
    board = EmulatedBoard("again", "pi4")
    image = board.image()
    before, hashes = key_of(image, board.hardware), image.folder / "hashes.json"
    made_again = json.loads(hashes.read_text()) | {
        "host_key": "0" * 64
    }  # of the same parts, with another key
    hashes.unlink()
    hashes.write_text(json.dumps(made_again))
    assert board.image().key == image.key
    assert key_of(board.image(), board.hardware) != before
    hashes.unlink()
    with pytest.raises(ConfigError, match="--rebuild"):
        key_of(image, board.hardware)


@pytest.mark.parametrize("how", ["cold", "state"])
def test_a_damaged_image_is_refused_by_name(copied_cache: Path, how: str) -> None:
    board = EmulatedBoard("damaged", "pi4")
    initramfs = board.image().first_files
    initramfs.unlink()
    initramfs.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"damaged \(initramfs\).*--rebuild"):
        board.start(how)  # type: ignore[arg-type]
    assert not board.is_alive
