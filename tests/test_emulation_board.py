"""Emulated boards, really booted: one image for all tests, built into a cache on first use."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from devices.agent_client import AgentClient
from devices.agent_meter import start_meter, stop_meter
from devices.agent_placement import placement
from devices.board_agent import BoardAgent
from devices.device import DeviceEntry, connect
from devices.emulation.board import EmulatedBoard
from devices.emulation.machine import Machine
from devices.emulation.power_model import heat
from devices.emulation.recipe import profile
from harness.config import board_of
from harness.host import Host
from harness.measure import Job, measure, ship
from results.errors import ConfigError, PreflightError
from results.records import Measurement, Plan, Target
from results.statistics import latency
from tests.fixtures_emulation import Start
from tests.tiny_models import artifact_of, onnx_convolution, tflite_convolution

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900), pytest.mark.usefixtures("image_cache")]

PLAN = Plan(
    "test", sessions=(1, 1), session_s=0.001, warmup_s=0.01, min_runs=20, max_runs=20, load_limit_s=300
)
FILES = {
    "onnxruntime": (onnx_convolution(channels=8, size=16, layers=3), "onnx"),
    "tflite": (tflite_convolution(channels=8, size=16, layers=3), "tflite"),
}
# 17 ms of the board's time: a timer tick takes 0.03 ms of a run, and a run of 1 ms has one now and then.
LONGER = {
    "onnxruntime": (onnx_convolution(channels=32, size=32, layers=3), "onnx"),
    "tflite": (tflite_convolution(channels=32, size=32, layers=3), "tflite"),
}
Files = Mapping[str, tuple[bytes, str]]


@pytest.fixture
def pi4(emulated_board: Start) -> EmulatedBoard:
    return emulated_board("pi4")


def job(runtime: str, device: str, files: Files = FILES) -> Job:
    data, file_format = files[runtime]
    return Job(artifact_of(data, file_format), data, Target(device, runtime), PLAN)


def measured(entry: DeviceEntry, files: Files) -> dict[str, Measurement]:
    """One session of each file, by a fresh agent, through everything that a study uses."""
    board = board_of(entry, "a test", Host(), give_up_after_s=120.0)
    try:
        return {runtime: measure(board, job(runtime, entry.name, files)) for runtime in files}
    finally:
        board.close()


def median_s(measurement: Measurement) -> float:
    return statistics.median(measurement.sessions[0].durations_s)


def test_figures_repeat_over_cold_boots_and_carry_their_label(emulated_board: Start) -> None:
    board = emulated_board("pi4", "cold")
    first = measured(board.entry, LONGER)
    board.power_cut()
    assert not board.is_alive
    entry = board.start("cold")
    second = measured(entry, LONGER)
    for runtime in FILES:
        # One part in a thousand is ten times the coefficient of variation measured on a loaded host
        # (benchmarks/emulation.py), so the chance of a false alarm is far below one in a million.
        assert median_s(first[runtime]) == pytest.approx(median_s(second[runtime]), rel=1e-3), runtime
        facts = dict(first[runtime].environment.facts)
        assert facts["emulated"].startswith("pi4,qemu-")
        assert facts["emulated"].endswith(",virtual-time")
        assert facts["model"] == "Raspberry Pi 4 Model B Rev 1.4 (emulated)"
        assert facts["governor"] == "performance"
        conditions = first[runtime].sessions[0].conditions
        assert conditions.temperature_before_c == pytest.approx(
            profile("pi4").power.rest.temperature_c, abs=0.01
        )
        assert conditions.clock_before_hz == 1.8e9
        assert conditions.throttle_events == 0
        assert latency(first[runtime], 0.5) is not None


def test_two_boards_go_on_from_one_saved_state(emulated_board: Start) -> None:
    boards = [emulated_board("pi4"), emulated_board("pi4")]
    facts = []
    for board in boards:
        with connect(board.entry) as connection:
            agent = AgentClient.start(
                connection, directory=board.entry.directory, holder="a test", root=board.entry.root
            )
            facts.append(agent.probe())
            agent.close()
            now_s = float(connection.run(["date", "+%s"]).stdout)
            assert now_s == pytest.approx(time.time(), abs=60), "a saved board does not live in the past"
        board.pause()
    assert facts[0].unit != facts[1].unit, "they are two units of one model"
    assert facts[0].boot_id != facts[1].boot_id
    assert dataclasses.replace(facts[0], unit="", boot_id="", disk_free_bytes=0) == dataclasses.replace(
        facts[1], unit="", boot_id="", disk_free_bytes=0
    )


def test_a_script_shows_on_the_sensors_and_in_the_session(pi4: EmulatedBoard) -> None:
    pi4.play(heat(80.0, 30.0))
    with connect(pi4.entry) as connection:
        path = "/run/board/sys/class/thermal/thermal_zone0/temp"
        first = int(connection.run(["cat", path]).stdout)
        assert first > 80_000
    conditions = measured(pi4.entry, {"tflite": FILES["tflite"]})["tflite"].sessions[0].conditions
    assert conditions.throttle_events, "the air is hotter than the board may be"
    assert conditions.clock_before_hz == profile("pi4").clocks_hz[0]
    pi4.resume()
    with connect(pi4.entry) as connection:
        assert int(connection.run(["cat", path]).stdout) > first, "it goes on when nobody is connected"


def test_the_agents_own_meter_asks_a_pi_5s_power_controller(emulated_board: Start) -> None:
    board = emulated_board("pi5", "cold")
    with connect(board.entry) as connection:
        agent = AgentClient.start(
            connection, directory=board.entry.directory, holder="a test", root=board.entry.root
        )
        assert agent.probe().meters == ("rpi_pmic",)
        facts = start_meter(agent, "rpi_pmic", {}, seed=0, limit_s=600.0)
        time.sleep(1.0)
        total, *rails = stop_meter(agent, facts, number=0)
        agent.close()
    assert facts.source == "rpi_pmic: sum of 12 rails"
    assert {"total", "VDD_CORE", "3V3_SYS"} <= {rail.source for rail in rails}
    assert len(rails) == 1 + 12
    assert total.powers_w == pytest.approx([profile("pi5").power.idle_w] * len(total.powers_w), rel=1e-4)


def test_a_study_pauses_and_stops_what_it_started(pi4: EmulatedBoard) -> None:
    entry = pi4.entry
    pi4.stop()
    board = board_of(entry, "a test", Host(), give_up_after_s=120.0)
    asked = job("onnxruntime", entry.name)

    def place(agent: BoardAgent) -> Mapping[str, int]:
        ship(agent, [asked])
        return placement(agent, asked.artifact, asked.target, 600.0).nodes

    try:
        assert board.facts.emulated
        assert set(board.use(place, asked.artifact.sha256)) == {"CPUExecutionProvider"}
        assert pi4.is_alive
        assert not pi4.machine.is_running, "nothing is outstanding"
    finally:
        board.close()
    assert not pi4.is_alive


def test_leftovers_are_found_by_their_lock(pi4: EmulatedBoard) -> None:
    process = pi4.machine.pid
    again = EmulatedBoard(pi4.name, "pi4")
    assert again.is_alive
    assert again.machine.pid == process
    again.start()
    assert again.machine.pid == process, "what runs is used"
    again.stop()
    assert not pi4.is_alive
    assert not Machine("nobody", Path("/nonexistent")).is_alive


def test_a_taken_port_and_a_damaged_image_are_refused(pi4: EmulatedBoard, tmp_path: Path) -> None:
    other = EmulatedBoard(f"{pi4.name}-b", "pi4")
    with pytest.raises(PreflightError, match="is taken"):
        other.start(port=pi4.port)
    assert not other.is_alive
    other.remove()
    image = pi4.image()
    copy = dataclasses.replace(image, folder=tmp_path)
    (tmp_path / "hashes.json").write_text((image.folder / "hashes.json").read_text())
    for path in image.folder.iterdir():
        if path.name not in ("hashes.json", "host_key.pub"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "host_key.pub").write_text("another")
    image.check()
    with pytest.raises(ConfigError, match=r"damaged \(host_key.pub\).*--rebuild"):
        copy.check()
