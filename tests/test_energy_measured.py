"""Energy measured for real: agents on this machine, their samplers, plateaus of a real model.

What the meters show is played (files of sensors, servers on loopback, recorded traces); that it is sampled,
joined with what ran, evaluated and stored is not.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devices.agent_client import AgentClient
from devices.agent_meter import start_meter, stop_meter
from devices.device import DeviceEntry
from devices.local import LocalConnection
from devices.registry import Lab
from harness import bench, config
from harness.board import Board
from harness.cli import main
from harness.energy import MeterSeat
from harness.energy import least_s as energy_time_s
from harness.host import Host
from harness.measure import Job, measure
from harness.study import CONFIRM, SCREEN, study_of
from results import energy
from results.errors import ConfigError, MeterError
from results.power import PowerTrace
from results.records import Measurement
from results.table import measurement_row
from tests import meter_servers, sensor_trees
from tests.fixtures_agent import ORT, QUICK, children, script, start
from tests.sensor_trees import plant
from tests.tiny_models import artifact_of, onnx_convolution

PLAN = replace(
    QUICK, energy=True, sessions=(1, 1), plateau_s=(0.6, 1.2), idle_s=0.4, half_width=0.05, retries=0
)
BOOT = "proc/sys/kernel/random/boot_id"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentClient]:
    with start(tmp_path / "home", root=str(tmp_path / "root")) as agent:
        yield agent


def sampled(
    agent: AgentClient, meter: str = "", *, seconds: float = 0.3, **options: Any
) -> tuple[PowerTrace, ...]:
    facts = start_meter(agent, meter, options, seed=1, limit_s=60.0)
    time.sleep(seconds)
    return stop_meter(agent, facts, number=0)


# --------------------------------------------------------------------------- sampling


def test_a_board_s_own_meter_is_sampled_with_every_rail(agent: AgentClient, tmp_path: Path) -> None:
    plant(tmp_path / "root", sensor_trees.jetson_agx_orin())
    facts = agent.probe()
    assert (facts.meters, dict(facts.meter_problems)) == (("ina3221",), {})
    total, *rails = sampled(agent)
    assert [trace.source for trace in rails] == [
        "VDD_GPU_SOC",
        "VDD_CPU_CV",
        "VIN_SYS_5V0",
        "VDDQ_VDD2_1V8AO",
    ]
    assert {trace.coverage for trace in rails} == {"part"}
    assert total.source == "ina3221 1-0040: VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert total.powers_w == pytest.approx([12.0] * len(total.times_s))
    assert len(total.times_s) >= 10
    assert total.clock == agent.hello.boot_id
    assert total.meter.resolution_w > 0.5


def test_readings_are_jittered_and_in_order(agent: AgentClient, tmp_path: Path) -> None:
    plant(tmp_path / "root", sensor_trees.ina226())
    trace = sampled(agent, "hwmon", seconds=1.5, chip="ina226", resolution_w=0.001)[0]
    gaps = [later - earlier for earlier, later in itertools.pairwise(trace.times_s)]
    assert min(gaps) > 0
    assert sum(gaps) / len(gaps) == pytest.approx(0.035, rel=0.5)  # a loaded machine reads less often
    assert max(gaps) - min(gaps) > 0.01


def test_a_sensor_that_is_slower_than_it_says_is_found_out(agent: AgentClient, tmp_path: Path) -> None:
    """New values 0.2 s apart, where the chip says 35 ms; it is read as often all the same."""
    root = plant(tmp_path / "root", sensor_trees.ina226())
    path = Path(root) / "sys/class/hwmon/hwmon2/power1_input"
    with counting(path, power_w=1.0, every_s=0.2):
        facts = start_meter(agent, "hwmon", {"chip": "ina226"}, seed=1, limit_s=60.0)
    assert facts.period_s == pytest.approx(0.035, rel=0.5)
    assert 0.15 <= facts.change_s < 2.0


def test_a_counter_gives_means(agent: AgentClient, tmp_path: Path) -> None:
    root = plant(tmp_path / "root", sensor_trees.rapl())
    path = Path(root) / sensor_trees.POWERCAP / "intel-rapl:0/energy_uj"
    with counting(path, power_w=20.0):
        trace = sampled(agent, seconds=1.0)[0]
    assert trace.means
    spent_j = sum(
        p * (b - a) for p, (a, b) in zip(trace.powers_w[1:], itertools.pairwise(trace.times_s), strict=True)
    )
    assert spent_j == pytest.approx(20.0 * (trace.times_s[-1] - trace.times_s[0]), rel=0.1)


class counting:
    """Plays a counter of energy, written in place: the kernel's file has a number at all times."""

    def __init__(self, path: Path, *, power_w: float, every_s: float = 0.002) -> None:
        self._path, self._power_w, self._every_s = path, power_w, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        started = time.monotonic()
        descriptor = os.open(self._path, os.O_WRONLY)
        while not self._end.wait(self._every_s):
            energy_uj = 1_000_000 + int(1e6 * self._power_w * (time.monotonic() - started))
            os.pwrite(descriptor, f"{energy_uj:015d}\n".encode(), 0)
        os.close(descriptor)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()


def test_a_meter_that_disappears_in_the_middle(agent: AgentClient) -> None:
    alive = [True]
    plug = meter_servers.shelly(lambda: 5.0 if alive[0] else None)
    with meter_servers.http_plug(plug) as port:
        facts = start_meter(agent, "shelly", {"host": "127.0.0.1", "port": port}, seed=1, limit_s=60.0)
        alive[0] = False
        time.sleep(7.5)  # readings must fail for five seconds before the meter counts as gone
        with pytest.raises(MeterError, match=r"desk: apower is None, no number \(\d+ times in a row\)"):
            stop_meter(agent, facts, number=0)
    agent.ping()


@pytest.mark.parametrize(
    ("power_w", "why"),
    [
        (-3.0, r"reads -3 W, less than nothing; is the sensor wired the other way round"),
        (float("nan"), "reads nan"),
    ],
)
def test_absurd_power_is_refused(agent: AgentClient, tmp_path: Path, power_w: float, why: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time_s,power_w\n" + "".join(f"{0.01 * k},{power_w}\n" for k in range(1000)))
    with pytest.raises(MeterError, match=why):
        sampled(agent, "csv_replay", path=str(path))


def test_a_meter_whose_clock_is_set_back_is_refused(agent: AgentClient, tmp_path: Path) -> None:
    """A recorder's clock that jumps back by 50 ms after 0.1 s."""
    path = tmp_path / "trace.csv"
    times = [0.01 * k - (0.05 if k > 10 else 0.0) for k in range(1000)]
    path.write_text("time_s,power_w\n" + "".join(f"{time_s:.2f},5\n" for time_s in times))
    with pytest.raises(MeterError, match=r"trace\.csv: its times run backwards; did its clock jump\?"):
        sampled(agent, "csv_replay", path=str(path))


def test_a_meter_without_permission_says_what_mends_it(tmp_path: Path) -> None:
    """The agent runs as another user, to whom the counter is not readable."""
    root = plant(tmp_path / "root", sensor_trees.rapl())
    counter = Path(root) / sensor_trees.POWERCAP / "intel-rapl:0/energy_uj"
    with as_stranger(tmp_path, counter) as agent:
        facts = agent.probe()
        assert facts.meters == ()
        assert "/etc/tmpfiles.d/" in facts.meter_problems["rapl"]
        with pytest.raises(MeterError, match=r"rapl: .*Permission denied; for now: sudo chmod a\+r"):
            sampled(agent)


DROP_RIGHTS = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
        raise OSError(ctypes.get_errno(), "prctl")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def as_stranger(tmp_path: Path, secret: Path) -> AgentClient:
    """An agent that may not read a file; where the tests run as root, root's right to is taken from it."""
    if os.getuid() != 0:
        secret.chmod(0o000)
        return start(tmp_path / "home", root=str(tmp_path / "root"))
    secret.chmod(0o400)
    os.chown(secret, 65534, 65534)
    (tmp_path / "drop.py").write_text(DROP_RIGHTS)
    python = script(tmp_path / "python", f'exec "{sys.executable}" "{tmp_path}/drop.py" "$@"')
    return start(tmp_path / "home", python=python, root=str(tmp_path / "root"))


def test_a_wrong_option_is_the_lab_file_s_fault(agent: AgentClient) -> None:
    with pytest.raises(ConfigError, match="csv_replay has no option 'file'; it has clock"):
        sampled(agent, "csv_replay", file="x")
    with pytest.raises(ConfigError, match="unknown meter 'watts'"):
        sampled(agent, "watts")


def test_a_sampler_that_is_killed_takes_nothing_with_it(agent: AgentClient, tmp_path: Path) -> None:
    plant(tmp_path / "root", sensor_trees.ina226())
    facts = start_meter(agent, "hwmon", {"chip": "ina226", "resolution_w": 0.001}, seed=1, limit_s=60.0)
    [sampler] = children(agent.hello.pid)
    os.kill(sampler, signal.SIGKILL)
    with pytest.raises(MeterError, match="the process that reads the meter has died"):
        stop_meter(agent, facts, number=0)
    assert sampled(agent, "hwmon", chip="ina226", resolution_w=0.001)


def test_an_agent_that_ends_leaves_no_sampler(tmp_path: Path) -> None:
    plant(tmp_path / "root", sensor_trees.ina226())
    with start(tmp_path / "home", root=str(tmp_path / "root")) as agent:
        start_meter(agent, "hwmon", {"chip": "ina226", "resolution_w": 0.001}, seed=1, limit_s=60.0)
        [sampler] = children(agent.hello.pid)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{sampler}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{sampler}").exists()


# --------------------------------------------------------------------------- measuring


def board(tmp_path: Path, seat: MeterSeat | None = None, *, root: str = "/") -> Board:
    tmp_path.mkdir(exist_ok=True)
    connection = LocalConnection("desk", home=tmp_path)

    def start_agent() -> AgentClient:
        return AgentClient.start(connection, holder="tests", root=root, python=_python())

    return Board("desk", start_agent, connection.close, Host(), give_up_after_s=5.0, meter=seat)


def _python() -> str:
    return sys.executable


def measured(board: Board, **plan: Any) -> Measurement:
    data = onnx_convolution()
    job = Job(artifact_of(data, "onnx"), data, ORT, replace(PLAN, **plan))
    try:
        return measure(board, job)
    finally:
        board.close()


def flat(path: Path, power_w: float = 5.0, seconds: float = 120.0) -> str:
    """A recorder's file: constant power, a value every 5 ms."""
    rows = "".join(f"{0.005 * k:.3f},{power_w}\n" for k in range(int(seconds / 0.005)))
    path.write_text("time_s,power_w\n" + rows)
    return str(path)


def test_energy_of_a_known_power_is_power_times_time(tmp_path: Path) -> None:
    seat = MeterSeat("desk", meter="csv_replay", options={"path": flat(tmp_path / "trace.csv")})
    got = measured(board(tmp_path, seat))
    [plateau] = got.plateaus
    seconds_each = (plateau.active_s[1] - plateau.active_s[0]) / plateau.runs
    found = energy.energy(got)
    assert found is not None
    assert found.gross.value == pytest.approx(5.0 * seconds_each, rel=1e-9)
    assert found.net is None  # nothing above idle
    row = measurement_row(got)
    assert row["energy_mj"] == pytest.approx(5e3 * seconds_each, rel=1e-9)
    assert row["energy_mj_low"] <= row["energy_mj"] <= row["energy_mj_high"]
    assert row["energy_net_mj"] is None
    assert "csv_replay trace.csv (wall)" in row["energy_note"]
    assert "net not resolvable" in row["energy_note"]


def test_a_meter_on_another_machine_is_joined_by_its_clock(tmp_path: Path) -> None:
    """Two trees of files with boot ids of their own: to the host, board and meter are two other machines."""
    for name in ("board", "meter"):
        plant(tmp_path / name, {BOOT: f"boot-of-{name}"})
    path = flat(tmp_path / "trace.csv")

    def start_reader() -> AgentClient:
        return start(tmp_path / "reader", root=str(tmp_path / "meter"))

    seat = MeterSeat("desk", meter="csv_replay", options={"path": path}, start=start_reader)
    got = measured(board(tmp_path / "home", seat, root=str(tmp_path / "board")))
    assert {fit.machine for fit in got.clocks} >= {"boot-of-board", "boot-of-meter"}
    assert all(0 <= fit.bound_s < 1.0 and abs(fit.offset_s) <= 1.0 for fit in got.clocks)
    assert got.traces[0].clock == "boot-of-meter"
    [plateau] = got.plateaus
    found = energy.energy(got)
    assert found is not None
    assert found.gross.value == pytest.approx(
        5.0 * (plateau.active_s[1] - plateau.active_s[0]) / plateau.runs
    )


def test_one_meter_for_two_boards_is_refused(tmp_path: Path) -> None:
    """The lock of the meter's folder, whatever lab files there are."""
    path = flat(tmp_path / "trace.csv")

    def start_reader() -> AgentClient:
        return start(tmp_path / "reader", holder="ben, for pi4")

    with start_reader():
        seat = MeterSeat("desk", meter="csv_replay", options={"path": path}, start=start_reader)
        got = measured(board(tmp_path / "home", seat))
    assert energy.interval(got) is None
    assert "its meter csv_replay is read by somebody else now: held by ben, for pi4" in got.energy_note
    assert len(got.sessions) == 1  # latency is there


def test_a_meter_s_machine_that_is_lost_is_not_the_board_s_fault(tmp_path: Path) -> None:
    """Its agent is killed while the model runs; the next attempt starts another one."""
    path = flat(tmp_path / "trace.csv")
    readers: list[AgentClient] = []

    def start_reader() -> AgentClient:
        readers.append(start(tmp_path / "reader"))
        if len(readers) == 1:
            threading.Timer(1.5, os.kill, (readers[0].hello.pid, signal.SIGKILL)).start()
        return readers[-1]

    states: list[str] = []
    seat = MeterSeat("desk", meter="csv_replay", options={"path": path}, start=start_reader)
    desk = board(tmp_path / "home", seat)
    desk._on_state = lambda name, state: states.append(state)
    got = measured(desk)
    assert energy.interval(got) is not None
    assert len(readers) == 2
    assert states == ["online"]
    assert got.dropped[0].startswith("the machine that reads its meter csv_replay: ")


def test_a_board_without_a_meter_says_how_it_could_be_measured(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", sensor_trees.raspberry_pi_4())
    seat = MeterSeat("desk", how="use an external meter, such as an INA226 read by another machine")
    got = measured(board(tmp_path / "home", seat, root=root))
    assert got.plateaus == ()
    assert (
        energy.note(got) == "no power meter: use an external meter, such as an INA226 read by another machine"
    )


def test_a_meter_that_is_too_slow_for_the_plan_says_how_long_it_needs(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", sensor_trees.laptop())
    seat = MeterSeat("desk", meter="battery", options={"period_s": 1.0})
    got = measured(board(tmp_path / "home", seat, root=root))
    assert got.plateaus == ()
    assert got.energy_note == (
        "battery BAT0 gives a value every 1 s and so needs runs of 104 s, but 1.2 s is the longest that the"
        " plan quick allows: take a faster meter"
    )


def test_a_meter_that_cannot_be_reached_costs_the_energy_alone(tmp_path: Path) -> None:
    with meter_servers.scpi(lambda line: "0") as port:
        pass
    seat = MeterSeat("desk", meter="scpi", options={"host": "127.0.0.1", "port": port})
    got = measured(board(tmp_path / "home", seat))
    assert len(got.sessions) == 1
    assert f"scpi at 127.0.0.1:{port} does not answer" in got.energy_note
    assert got.dropped == (got.energy_note,) * 3


# --------------------------------------------------------------------------- lab file, command line


def lab(path: Path, *meters: str) -> Path:
    """A lab of local devices, each with the text of its meter's table."""
    tables = [
        f"[devices.desk{n}]\nconnection = 'local'\npython = '{sys.executable}'\n"
        + f"directory = '{path.parent}/d{n}'\n"
        + (f"[devices.desk{n}.meter]\n{text}\n" if text else "")
        for n, text in enumerate(meters)
    ]
    path.write_text("\n".join(tables))
    return path


@pytest.mark.parametrize("on", ["host", "desk1"])
def test_bench_measures_energy_with_the_meter_of_the_lab_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], on: str
) -> None:
    monkeypatch.setattr(config, "METERS", str(tmp_path / "meters"))
    monkeypatch.setattr(bench, "BENCH", replace(PLAN, name="bench"))
    trace = flat(tmp_path / "trace.csv")
    file = lab(tmp_path / "lab.toml", f"kind = 'csv_replay'\non = '{on}'\npath = '{trace}'", "")
    (tmp_path / "model.onnx").write_bytes(onnx_convolution())
    arguments = ["bench", str(tmp_path / "model.onnx"), "--on", "desk0", "--lab", str(file)]
    assert main([*arguments, "--energy", "--json", "--out", str(tmp_path / "out")]) == 0
    row = json.loads(capsys.readouterr().out)
    assert 0 < row["energy_mj_low"] <= row["energy_mj"] <= row["energy_mj_high"]
    assert row["energy_note"].startswith("csv_replay trace.csv (wall); active 5 W, idle 5 W; plateaus: 1")
    assert main([*arguments, "--json", "--out", str(tmp_path / "without")]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["energy_mj"], row["energy_note"]) == (None, "not measured: no power meter was read")


@pytest.mark.parametrize(
    ("meters", "why"),
    [
        (("kind = 'shelly'\non = 'host'\nhost = '10.0.0.7'",) * 2, "is the meter of 'desk0' as well"),
        (
            ("kind = 'shelly'\non = 'bench2'\nhost = 'x'",),
            "on = 'bench2': no such machine; known: board, host, desk0",
        ),
        (("on = 'host'",), "meter must name its kind"),
        (("kind = 3",), "kind must be a text, got 3"),
        (("kind = 'scpi'\nhost = ['a']",), "host must be a text, a number or a truth value"),
    ],
)
def test_a_lab_file_with_a_meter_that_cannot_be(tmp_path: Path, meters: tuple[str, ...], why: str) -> None:
    file = lab(tmp_path / "lab.toml", *meters)
    with pytest.raises(ConfigError, match=why) as caught:
        Lab.load(file)
    assert str(file) in str(caught.value)


def test_two_channels_of_one_meter_are_two_meters(tmp_path: Path) -> None:
    text = "kind = 'shelly'\non = 'host'\nhost = '10.0.0.7'\nchannel = "
    file = lab(tmp_path / "lab.toml", f"{text}0", f"{text}1", "kind = 'ina3221'", "kind = 'ina3221'")
    entries = Lab.load(file).entries
    assert dict(entries["desk1"].meter)["channel"] == 1
    assert config.meter_seat(entries["desk2"], "tests").meter == "ina3221"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind = 'shely'\nhost = 'x'", "unknown meter 'shely'"),
        ("kind = 'shelly'\nhots = 'x'", "has no option 'hots'"),
    ],
)
def test_a_wrong_meter_is_refused_before_anything_is_connected(tmp_path: Path, text: str, why: str) -> None:
    entry = Lab.load(lab(tmp_path / "lab.toml", text)).entry("desk0")
    with pytest.raises(ConfigError, match=rf"\[devices.desk0.meter\] .*{why}"):
        config.board_of(entry, "tests", Host())


def test_a_meter_survives_writing_the_lab_file(tmp_path: Path) -> None:
    file = lab(tmp_path / "lab.toml", "")
    lab_file = Lab.load(file)
    meter = {"kind": "tasmota", "on": "host", "host": "plug.local"}
    lab_file.add(DeviceEntry("pi4", address="pi@pi4", meter=meter))
    assert dict(Lab.load(file).entry("pi4").meter) == meter


def test_a_study_asks_for_energy_where_it_is_wanted(tmp_path: Path) -> None:
    study = {"targets": [{"device": "pi", "runtime": "onnxruntime"}], "task": {"name": "digits"}}
    study |= {"space": {"name": "chain"}, "strategy": {"name": "random"}}

    def plans(**more: Any) -> tuple[bool, bool]:
        got = study_of({**study, **more}, tmp_path / "s.toml")
        return got.screen.energy, got.confirm.energy

    assert energy_time_s(SCREEN) == 0
    assert energy_time_s(replace(CONFIRM, energy=True, agents=5)) == pytest.approx(
        5 * 33 + 5 * CONFIRM.warmup_s
    )
    assert plans() == (False, False)
    assert plans(measurement={"energy": True}) == (False, True)
    assert plans(objective="energy") == (True, True)
    target = {"device": "pi", "runtime": "onnxruntime", "limits": ["energy <= 20 mJ"]}
    assert plans(targets=[target]) == (True, True)
    got = study_of(
        {**study, "measurement": {"confirm": {"plateau_s": [20, 60], "idle_s": 5}}}, tmp_path / "s.toml"
    )
    assert (got.confirm.plateau_s, got.confirm.idle_s) == ((20.0, 60.0), 5.0)
    with pytest.raises(
        ConfigError, match=r"plateau_s must be \[least, greatest\] in seconds, got \[60, 20\]"
    ):
        study_of({**study, "measurement": {"confirm": {"plateau_s": [60, 20]}}}, tmp_path / "s.toml")
