"""`devices check` tries the power meter: on real agents, with what the meters show played."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devices.agent_client import AgentClient
from devices.preflight_checks import MeterLook
from harness.cli import main
from harness.energy import MeterSeat
from harness.meter_check import try_meter
from tests import meter_servers, sensor_trees
from tests.fixtures_agent import start
from tests.sensor_trees import plant
from tests.test_energy_measured import as_stranger, flat, lab


def tried(tmp_path: Path, seat: MeterSeat, root: str = "/") -> MeterLook:
    with start(tmp_path / "home", root=root) as agent:
        return try_meter(agent, agent.probe(), seat)


def test_a_meter_that_works_says_what_it_reads_and_how_long_it_needs(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", sensor_trees.jetson_agx_orin())
    look = tried(tmp_path, MeterSeat("orin"), root)
    assert look.readable is True
    assert look.found.startswith(
        "ina3221 1-0040: VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 (rails): 12 W, a value"
    )
    assert look.found.endswith("; runs of 10 s will do")


def test_a_board_without_a_meter_is_told_how_it_could_have_one(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", sensor_trees.raspberry_pi_4())
    assert tried(tmp_path, MeterSeat("pi4", how="use an INA226"), root) == MeterLook("none: use an INA226")


def test_a_meter_that_may_not_be_read_has_the_line_that_mends_it(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", sensor_trees.rapl())
    counter = Path(root) / sensor_trees.POWERCAP / "intel-rapl:0/energy_uj"
    with as_stranger(tmp_path, counter) as agent:
        look = try_meter(agent, agent.probe(), MeterSeat("desk"))
    assert look.readable is False
    assert "Permission denied" in look.found
    assert "sudo chmod a+r" in look.remedy
    assert "/etc/tmpfiles.d/" in look.remedy


def test_a_network_meter_that_is_not_there(tmp_path: Path) -> None:
    with meter_servers.scpi(lambda line: "0") as port:
        pass
    look = tried(tmp_path, MeterSeat("desk", meter="scpi", options={"host": "127.0.0.1", "port": port}))
    assert look.readable is False
    assert f"scpi at 127.0.0.1:{port} does not answer" in look.found


def test_a_meter_that_another_board_is_wired_to(tmp_path: Path) -> None:
    path = flat(tmp_path / "trace.csv")

    def start_reader() -> AgentClient:
        return start(tmp_path / "reader", holder="ben, for pi4")

    with start(tmp_path / "reader", holder="ben, for pi4"):
        seat = MeterSeat("desk", meter="csv_replay", options={"path": path}, start=start_reader)
        look = tried(tmp_path, seat)
    assert look.readable is False
    assert "is read by somebody else now: held by ben, for pi4" in look.found
    assert look.remedy == "one meter cannot tell two boards apart"


def test_a_meter_that_is_too_slow_says_how_long_it_would_need(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", sensor_trees.laptop())
    look = tried(tmp_path, MeterSeat("desk", meter="battery", options={"period_s": 1.2}), root)
    assert look.readable is False
    assert look.found.startswith("battery BAT0 (battery): ")
    assert look.remedy == "take a faster meter: it needs runs of 125 s, and 120 s is the longest"


def test_check_tries_the_meter_of_the_lab_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.config.METERS", str(tmp_path / "meters"))
    trace = flat(tmp_path / "trace.csv")
    file = lab(tmp_path / "lab.toml", f"kind = 'csv_replay'\non = 'host'\npath = '{trace}'")
    main(["devices", "check", "desk0", "--lab", str(file), "--json"])
    [found] = [one for one in json.loads(capsys.readouterr().out) if one["name"] == "power meter"]
    assert found["state"] == "ok"
    assert found["found"].startswith("csv_replay trace.csv (wall): 5 W, a value every 0.005 s")
