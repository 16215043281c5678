"""Power meters: those that boards have, from trees of sensor files, and those that answer on a network."""

from __future__ import annotations

import itertools
import os
import struct
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices.agent import metering, options
from devices.agent.failures import Failure
from devices.agent.meters import battery, rapl, rpi_pmic
from devices.agent.meters.rpi_pmic import Mailbox, Pmic
from tests import meter_servers, sensor_trees
from tests.sensor_trees import PMIC, PMIC_W, plant


def open_meter(name: str, root: Path | str = "/", **given: Any) -> Any:
    plugin = metering.plugin(name)
    return plugin.open_meter(str(root), options.read(name, plugin.OPTIONS, given))


def figure_w(meter: Any) -> float:
    """The figure of one reading."""
    [(_, values)] = meter.read()
    return sum(values[i] for i in meter.facts.total)


# --------------------------------------------------------------------------- what all have in common


@pytest.mark.parametrize("name", metering.meter_names())
def test_every_meter_has_what_a_meter_has(name: str) -> None:
    plugin = metering.plugin(name)
    assert plugin.__doc__
    assert callable(plugin.open_meter)
    assert hasattr(plugin, "find") == (name in metering.BUILT_IN)
    assert options.read(name, plugin.OPTIONS, {}) == {k: o.default for k, o in plugin.OPTIONS.items()}
    assert all(option.accepts(option.default) for option in plugin.OPTIONS.values())


@pytest.mark.parametrize("name", metering.meter_names())
def test_a_meter_that_is_not_there_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        open_meter(name, tmp_path)
    assert caught.value.kind in ("meter", "bad_option")
    assert len(caught.value.message) > 20


@pytest.mark.parametrize("name", metering.BUILT_IN)
def test_built_in_meters_are_not_found_where_there_are_none(name: str, tmp_path: Path) -> None:
    assert metering.plugin(name).find(str(tmp_path)) is None


def test_an_unknown_meter_names_the_known_ones() -> None:
    with pytest.raises(Failure, match=r"unknown meter 'ina3222'; known: .*ina3221"):
        metering.plugin("ina3222")


BOARDS: list[tuple[Callable[[], sensor_trees.Files], str, str, float, str]] = [
    (sensor_trees.jetson_nano, "ina3221", "POM_5V_IN", 3.0, "module"),
    (sensor_trees.jetson_tx2, "ina3221", "VDD_IN", 7.6, "module"),
    (sensor_trees.jetson_agx_xavier, "ina3221", "GPU + CPU + SOC + CV + VDDRQ + SYS5V", 39.9, "rails"),
    (sensor_trees.jetson_xavier_nx_jetpack4, "ina3221", "VDD_IN", 5.0, "module"),
    (sensor_trees.jetson_orin_nano, "ina3221", "VDD_IN", 5.0, "module"),
    (sensor_trees.jetson_agx_orin, "ina3221", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 12.0, "rails"),
    (sensor_trees.jetson_thor, "ina3221", "VIN", 42.5, "module"),
    (sensor_trees.laptop, "battery", "BAT0", 8.0, "battery"),
    (sensor_trees.old_laptop, "battery", "BAT1", 13.8, "battery"),
]


@pytest.mark.parametrize(
    ("board", "name", "source", "power_w", "coverage"), BOARDS, ids=lambda x: getattr(x, "__name__", None)
)
def test_a_board_s_own_meter_is_found_and_read(
    tmp_path: Path,
    board: Callable[[], sensor_trees.Files],
    name: str,
    source: str,
    power_w: float,
    coverage: str,
) -> None:
    root = plant(tmp_path, board())
    assert metering.built_in(root) == name
    meter = open_meter(name, root, **({"period_s": 1} if name == "battery" else {}))
    assert meter.facts.source.endswith(source)
    assert meter.facts.coverage == coverage
    assert figure_w(meter) == pytest.approx(power_w, rel=1e-9)
    meter.close()
    meter.close()


@pytest.mark.parametrize("board", [sensor_trees.raspberry_pi_4, sensor_trees.ucsi_decoy, sensor_trees.ina226])
def test_boards_without_a_meter_of_their_own_have_none(
    tmp_path: Path, board: Callable[[], sensor_trees.Files]
) -> None:
    """A Pi 4 measures no current, USB-C power is negotiated, and what an INA226 is wired to nobody tells."""
    root = plant(tmp_path, board())
    assert metering.found(root) == {}
    with pytest.raises(Failure, match="no power meter of its own"):
        metering.built_in(root)


# --------------------------------------------------------------------------- Jetson


def test_every_rail_of_agx_orin_is_kept_and_memory_is_not_added_twice(tmp_path: Path) -> None:
    meter = open_meter("ina3221", plant(tmp_path, sensor_trees.jetson_agx_orin()))
    assert meter.facts.channels == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    assert meter.facts.total == (0, 1, 2)
    [(_, watts)] = meter.read()
    assert watts == pytest.approx((6.0, 2.0, 4.0, 1.0))
    # 20 mA at 2 mOhm: 0.4 W on each rail of 20 V, 0.1 W on the one of 5 V
    assert meter.facts.resolution_w == pytest.approx((0.4**2 + 0.4**2 + 0.1**2) ** 0.5)


def test_step_and_average_of_the_chip(tmp_path: Path) -> None:
    meter = open_meter("ina3221", plant(tmp_path / "one", sensor_trees.jetson_orin_nano()))
    assert meter.facts.resolution_w == pytest.approx(0.040)  # 8 mA at 5 V
    assert (meter.facts.period_s, meter.facts.time_constant_s) == (0.007, 0.0)
    meter = open_meter("ina3221", plant(tmp_path / "many", sensor_trees.jetson_orin_nano(samples=64)))
    assert meter.facts.time_constant_s == pytest.approx(64 * 0.007)


def test_a_driver_whose_interval_has_the_averaging_in_it(tmp_path: Path) -> None:
    """The kernel's driver of about 5.19: update_interval is samples cycles long."""
    root = plant(tmp_path, sensor_trees.jetson_orin_nano(samples=64))
    [interval] = tmp_path.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/*/update_interval")
    interval.write_text("448")
    meter = open_meter("ina3221", root)
    assert meter.facts.period_s == pytest.approx(0.007)
    assert meter.facts.time_constant_s == pytest.approx(64 * 0.007)


def test_rails_that_nobody_knows_must_be_named(tmp_path: Path) -> None:
    rails = {1: ("VDD_A", 5000, 100), 2: ("VDD_B", 5000, 300)}
    root = plant(tmp_path, sensor_trees.ina3221_hwmon("0-0040/hwmon/hwmon0", rails, shunt_uohm=5000))
    with pytest.raises(Failure, match=r"name those that add up, rails = 'A, B'; the rails are VDD_A, VDD_B"):
        open_meter("ina3221", root)
    assert figure_w(open_meter("ina3221", root, rails="VDD_A, VDD_B")) == pytest.approx(2.0)
    assert figure_w(open_meter("ina3221", root, rails="VDD_B")) == pytest.approx(1.5)
    with pytest.raises(Failure, match="there is no rail 'VDD_C'"):
        open_meter("ina3221", root, rails="VDD_C")


def test_a_chip_seen_through_two_folders_counts_once(tmp_path: Path) -> None:
    """On a board, drivers/ and devices/ are links to one folder."""
    root = plant(tmp_path, sensor_trees.jetson_orin_nano())
    (tmp_path / "sys/bus/i2c/devices").mkdir(parents=True)
    (tmp_path / "sys/bus/i2c/devices/1-0040").symlink_to(tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040")
    assert figure_w(open_meter("ina3221", root)) == pytest.approx(5.0)
    assert open_meter("ina3221", root).facts.channels == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")


# --------------------------------------------------------------------------- Raspberry Pi 5


def firmware(answer: str, error: int = 0) -> Callable[[int, int, bytearray], None]:
    """The firmware behind ``ioctl``: checks the request as the mailbox does, and writes its answer."""

    def ioctl(descriptor: int, request: int, message: bytearray) -> None:
        size, code, tag, room, _, _ = struct.unpack_from("=6I", message)
        if (size, code, tag) != (len(message), 0, 0x00030080) or request != 0xC0086400:
            raise OSError(22, "Invalid argument")
        command = bytes(message[24:]).split(b"\0")[0]
        text = answer.encode() if command == b"pmic_read_adc" else b"error=1"
        struct.pack_into("=6I", message, 0, size, 0x80000000, tag, room, 0x80000000 | len(text), error)
        message[24 : 24 + len(text) + 1] = text + b"\0"

    return ioctl


def mailbox(root: Path, answer: str = PMIC, error: int = 0) -> Mailbox:
    plant(root, sensor_trees.raspberry_pi_5())
    return Mailbox(str(root / "dev/vcio"), firmware(answer, error))


def test_the_rails_of_a_pi_5_are_added(tmp_path: Path) -> None:
    box = mailbox(tmp_path)
    meter = Pmic(box.ask, box.close, 1.0, 0.0)
    assert len(meter.facts.channels) == 13
    assert figure_w(meter) == pytest.approx(PMIC_W, abs=1e-8)
    assert (meter.facts.coverage, "uncalibrated" in meter.facts.leaves_out) == ("rails", True)
    meter.close()
    meter.close()


def test_a_calibrated_pi_5_stands_for_the_wall(tmp_path: Path) -> None:
    box = mailbox(tmp_path)
    meter = Pmic(box.ask, box.close, 1.1451, 0.5879)
    assert figure_w(meter) == pytest.approx(1.1451 * PMIC_W + 0.5879, abs=1e-8)
    assert (meter.facts.coverage, meter.facts.leaves_out) == ("wall", "")


def test_a_board_whose_firmware_gives_no_currents_has_no_figure(tmp_path: Path) -> None:
    box = mailbox(tmp_path, 'error=1 error_msg="Command not registered"')
    with pytest.raises(Failure, match="gives no currents"):
        Pmic(box.ask, box.close, 1.0, 0.0)


def test_firmware_that_refuses_is_a_passing_fault(tmp_path: Path) -> None:
    with pytest.raises(metering.Glitch, match="refuses"):
        mailbox(tmp_path, error=1).ask("pmic_read_adc")


def test_a_device_file_that_is_no_mailbox(tmp_path: Path) -> None:
    """The real call, on a plain file."""
    root = plant(tmp_path, sensor_trees.raspberry_pi_5())
    assert metering.built_in(root) == "rpi_pmic"
    with pytest.raises(Failure, match=r"rpi_pmic: .*vcio: Inappropriate ioctl"):
        rpi_pmic.open_meter(root, {"scale": 1.0, "offset_w": 0.0})


# --------------------------------------------------------------------------- RAPL


def set_counter(root: str, energy_uj: int, package: int = 0) -> None:
    plant(Path(root), {f"{sensor_trees.POWERCAP}/intel-rapl:{package}/energy_uj": energy_uj})


def test_rapl_adds_packages_and_nothing_else(tmp_path: Path) -> None:
    root = plant(tmp_path, sensor_trees.rapl(energies_uj=(1_000_000, 2_000_000)))
    meter = open_meter("rapl", root)
    assert meter.facts.channels == ("package-0", "package-1")
    set_counter(root, 1_200_000, 0)
    set_counter(root, 2_050_000, 1)
    assert figure_w(meter) == pytest.approx(0.25, abs=1e-12)


def test_rapl_goes_on_where_the_counter_wraps_twice(tmp_path: Path) -> None:
    root = plant(tmp_path, sensor_trees.rapl(energies_uj=(900_000,), range_uj=1_000_000))
    meter = open_meter("rapl", root)
    totals = []
    for reading in (950_000, 50_000, 850_000, 100_000, 100_000):
        set_counter(root, reading)
        totals.append(figure_w(meter))
    assert totals == [0.05, 0.15, 0.95, 1.2, 1.2]


def test_rapl_that_was_reset_is_refused_with_the_reason(tmp_path: Path) -> None:
    root = plant(tmp_path, sensor_trees.rapl(energies_uj=(5_000_000_000,)))
    meter = open_meter("rapl", root)
    set_counter(root, 1000)
    with pytest.raises(
        Failure, match=r"was reset: it went from 5000000000 to 1000 uJ; was the machine suspended"
    ):
        meter.read()


def test_what_may_not_be_read_says_how_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(tmp_path, sensor_trees.rapl())
    as_a_plain_user(monkeypatch)
    found = metering.found(root)
    assert "Permission denied" in found["rapl"].problem
    assert "sudo chmod a+r" in found["rapl"].problem
    assert "/etc/tmpfiles.d/" in found["rapl"].problem
    with pytest.raises(Failure, match=r"rapl: .*energy_uj: Permission denied; for now: sudo chmod"):
        metering.built_in(root)
    with pytest.raises(Failure, match="Permission denied"):
        open_meter("rapl", root)
    plant(tmp_path, sensor_trees.raspberry_pi_5())
    assert "sudo usermod -aG video $USER" in metering.found(root)["rpi_pmic"].problem


def as_a_plain_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of sensors cannot be opened, as the kernel answers a login without the right."""
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith(("energy_uj", "vcio")):
            raise PermissionError(13, os.strerror(13), path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)


# --------------------------------------------------------------------------- hwmon, battery


def test_an_ina226_is_read_when_it_is_named(tmp_path: Path) -> None:
    root = plant(tmp_path, sensor_trees.ina226())
    meter = open_meter("hwmon", root, chip="ina226", coverage="wall")
    assert figure_w(meter) == pytest.approx(2.5)
    assert (meter.facts.period_s, meter.facts.coverage) == (0.035, "wall")
    # The only one that measures power: what USB-C negotiated is no measurement.
    assert figure_w(open_meter("hwmon", root)) == pytest.approx(2.5)


def test_a_chip_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"0 sensors of power are a chip 'ina219' with channel 1; .*ina226"):
        open_meter("hwmon", plant(tmp_path, sensor_trees.ina226()), chip="ina219")


def test_a_chip_with_a_counter_is_read_by_it(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon7"
    root = plant(
        tmp_path, {f"{chip}/name": "ltc2947", f"{chip}/energy1_input": 5_000_000, f"{chip}/power1_input": 1}
    )
    meter = open_meter("hwmon", root)
    assert meter.facts.kind == metering.COUNTER
    assert figure_w(meter) == 5.0
    plant(tmp_path, {f"{chip}/energy1_input": 4_000_000})
    with pytest.raises(Failure, match="was reset"):
        meter.read()


def test_voltage_and_current_make_a_power(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon7"
    root = plant(
        tmp_path, {f"{chip}/name": "lm25066", f"{chip}/in2_input": 12000, f"{chip}/curr2_input": 250}
    )
    assert figure_w(open_meter("hwmon", root, channel=2)) == pytest.approx(3.0)


def test_a_battery_that_is_charged_is_refused(tmp_path: Path) -> None:
    root = plant(tmp_path, sensor_trees.laptop())
    meter = open_meter("battery", root, period_s=1)
    plant(tmp_path, sensor_trees.laptop(status="Charging"))
    with pytest.raises(Failure, match="battery BAT0 is charging: unplug the supply"):
        meter.read()
    found = battery.find(root)
    assert found is not None
    assert "unplug" in found.problem


def test_a_battery_finds_out_how_often_it_has_new_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed a third of a second apart, then not at all."""
    root = plant(tmp_path, sensor_trees.laptop())
    ended = threading.Event()

    def drain() -> None:
        for power_uw in itertools.count(8_000_000, 1000):
            if ended.wait(0.33):
                return
            path = tmp_path / "sys/class/power_supply/BAT0/power_now"
            with path.open("r+") as file:
                file.write(f"{power_uw}\n")

    thread = threading.Thread(target=drain)
    thread.start()
    period_s = open_meter("battery", root).facts.period_s
    ended.set()
    thread.join()
    assert 0.3 <= period_s < 3.0  # a loaded machine is late
    monkeypatch.setattr(battery, "LOOK_S", 0.3)
    assert open_meter("battery", root).facts.period_s == 0.3


def test_a_sensor_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is unloaded leaves open files that answer ENODEV; an empty answer may pass."""
    meter = open_meter("hwmon", plant(tmp_path, sensor_trees.ina226()))
    (tmp_path / "sys/class/hwmon/hwmon2/power1_input").write_text("")
    with pytest.raises(metering.Glitch, match="no number"):
        meter.read()

    def gone(*arguments: object) -> bytes:
        raise OSError(19, os.strerror(19))

    monkeypatch.setattr(os, "pread", gone)
    with pytest.raises(Failure, match="power1_input has gone: No such device"):
        meter.read()


# --------------------------------------------------------------------------- network


def test_shelly(tmp_path: Path) -> None:
    with meter_servers.http_plug(meter_servers.shelly(lambda: 7.5)) as port:
        meter = open_meter("shelly", host="127.0.0.1", port=port)
        assert figure_w(meter) == 7.5
        assert (meter.facts.coverage, meter.facts.least_s, meter.facts.least_net_w) == ("wall", 120.0, 1.0)
        meter.close()


@pytest.mark.parametrize(("power", "step_w"), [(12, 1.0), (12.3, 0.1), ([12, 99], 1.0)])
def test_tasmota(power: Any, step_w: float) -> None:
    with meter_servers.http_plug(meter_servers.tasmota(lambda: power)) as port:
        meter = open_meter("tasmota", host="127.0.0.1", port=port)
        assert figure_w(meter) == pytest.approx(power[0] if isinstance(power, list) else power)
        assert meter.facts.resolution_w == step_w
        meter.close()


@pytest.mark.parametrize(("answer", "power_w"), [("3.25", 3.25), ("5.0;0.5", 2.5), ("+5.0E+00,2.0E-01", 1.0)])
def test_scpi(answer: str, power_w: float) -> None:
    said = {"*IDN?": "ACME,PM-1,123,1.0", "MEAS:POW?": answer}
    with meter_servers.scpi(said.__getitem__) as port:
        meter = open_meter("scpi", host="127.0.0.1", port=port)
        assert meter.facts.source == "scpi ACME,PM-1: MEAS:POW?"
        assert figure_w(meter) == pytest.approx(power_w)
        meter.close()


@pytest.mark.parametrize("name", ["shelly", "tasmota", "scpi"])
def test_a_network_meter_that_cannot_be_reached(name: str) -> None:
    with meter_servers.http_plug(lambda path: {}) as port:
        pass  # nobody listens there any more
    with pytest.raises(
        Failure, match=rf"{name} at 127.0.0.1:{port} does not answer.*refused.*on this network"
    ):
        open_meter(name, host="127.0.0.1", port=port)


@pytest.mark.parametrize(
    ("said", "why"), [(401, "wants a password"), ({}, "no apower"), (b"<html>", "does not answer")]
)
def test_a_plug_that_answers_something_else(said: Any, why: str) -> None:
    with meter_servers.http_plug(lambda path: said) as port, pytest.raises(Failure, match=why):
        open_meter("shelly", host="127.0.0.1", port=port)


def test_a_plug_that_gives_no_number_once_is_a_passing_fault() -> None:
    powers = iter([7.5, None, float("nan"), 7.6])
    with meter_servers.http_plug(meter_servers.shelly(lambda: next(powers))) as port:
        meter = open_meter("shelly", host="127.0.0.1", port=port)
        for _ in range(2):
            with pytest.raises(metering.Glitch, match="apower"):
                meter.read()
        assert figure_w(meter) == 7.6
        meter.close()


# --------------------------------------------------------------------------- recorded traces


def csv(path: Path, rows: list[tuple[float, float]], head: str = "time_s,power_w") -> str:
    path.write_text("\n".join([head, *(f"{t!r},{p!r}" for t, p in rows), ""]))
    return str(path)


def test_a_recorder_s_file_is_followed_while_it_grows(tmp_path: Path) -> None:
    now_s = metering.now_ns() / 1e9
    path = csv(tmp_path / "trace.csv", [(now_s - 1, 1.0), (now_s - 0.5, 2.0)])
    meter = open_meter("csv_replay", path=path, clock="monotonic")
    assert meter.facts.period_s == pytest.approx(0.5)
    assert [values for _, values in meter.read()] == [(1.0,), (2.0,)]
    with Path(path).open("a") as file:
        file.write(f"{now_s - 0.1!r},3.")
        file.flush()
        assert meter.read() == []  # half a line
        file.write("5\n")
        file.flush()
        [(at_ns, values)] = meter.read()
    assert (at_ns / 1e9, values) == (pytest.approx(now_s - 0.1), (3.5,))
    meter.close()


def test_a_recorded_trace_comes_when_it_is_due(tmp_path: Path) -> None:
    path = csv(tmp_path / "trace.csv", [(0.0, 1.0), (0.01, 2.0), (3600.0, 3.0)])
    meter = open_meter("csv_replay", path=path, period_s=0.01)
    time.sleep(0.02)
    seen = meter.read()
    assert [values for _, values in seen] == [(1.0,), (2.0,)]
    meter.close()


def test_a_csv_without_the_columns_names_those_it_has(tmp_path: Path) -> None:
    path = csv(tmp_path / "trace.csv", [(0.0, 1.0)], head="t,watts")
    with pytest.raises(Failure, match="has no column 'time_s'; its columns are t, watts"):
        open_meter("csv_replay", path=path)
    meter = open_meter("csv_replay", path=path, time="t", power="watts", period_s=1)
    assert meter.facts.period_s == 1
    meter.close()


# --------------------------------------------------------------------------- vendors' packages


@pytest.mark.parametrize(
    ("name", "package"), [("joulescope", "joulescope"), ("ppk2", "ppk2-api"), ("otii", "otii-tcp-client")]
)
def test_a_missing_package_is_named(name: str, package: str) -> None:
    with pytest.raises(
        Failure, match=rf"the package {package} is missing .*python3 -m pip install {package}"
    ):
        open_meter(name)


class FakeJoulescope:
    """Speaks as ``joulescope`` 1.5's device does; its statistics come when a test sends them."""

    def __init__(self) -> None:
        self.callback: Callable[[dict[str, Any]], None] | None = None
        self.settings: dict[str, str] = {}

    def open(self) -> None: ...

    def close(self) -> None: ...

    def parameter_set(self, name: str, value: str) -> None:
        self.settings[name] = value

    def statistics_callback_register(self, callback: Any, source: str | None = None) -> None:
        self.callback = callback

    def statistics_callback_unregister(self, callback: Any, source: str | None = None) -> None:
        self.callback = None

    def __str__(self) -> str:
        return "Joulescope:000415"


def test_joulescope(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeJoulescope()
    package = types.SimpleNamespace(scan=lambda config: [device])
    monkeypatch.setitem(sys.modules, "joulescope", package)
    meter = open_meter("joulescope", serial="415")
    assert device.settings == {"reduction_frequency": "50 Hz"}
    assert device.callback is not None
    for joules in (0.1, 0.25):
        device.callback({"accumulators": {"energy": {"value": joules, "units": "J"}}})
    assert [values for _, values in meter.read()] == [(0.1,), (0.25,)]
    meter.close()
    assert device.callback is None
    with pytest.raises(Failure, match="0 fit; name one with serial; found: Joulescope:000415"):
        open_meter("joulescope", serial="999")


def test_ppk2(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [b"", b"1234", b"1234"]
    calls: list[Any] = []

    class Kit:
        def __init__(self, port: str, **more: Any) -> None:
            calls.append(port)

        @staticmethod
        def list_devices() -> list[tuple[str, str]]:
            return [("/dev/ttyACM0", "C0FFEE")]

        def get_data(self) -> bytes:
            return chunks.pop(0)

        def get_samples(self, data: bytes) -> tuple[list[float], list[int]]:
            return [100_000.0, 300_000.0], [0, 0]  # microamperes: 0.2 A on average

        def __getattr__(self, name: str) -> Any:
            return lambda *arguments: calls.append((name, *arguments))

    module = types.ModuleType("ppk2_api.ppk2_api")
    module.PPK2_API = Kit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ppk2_api", types.ModuleType("ppk2_api"))
    monkeypatch.setitem(sys.modules, "ppk2_api.ppk2_api", module)
    meter = open_meter("ppk2", volts=5.0)
    started_ns = meter._last_ns
    assert ("set_source_voltage", 5000) in calls
    assert ("use_ampere_meter",) in calls
    assert meter.read() == []
    [(first_ns, (first_j,))] = meter.read()
    [(second_ns, (second_j,))] = meter.read()
    assert first_j == pytest.approx(1.0 * (first_ns - started_ns) / 1e9)
    assert second_j - first_j == pytest.approx(1.0 * (second_ns - first_ns) / 1e9)
    meter.close()
    assert calls[-1] == ("stop_measuring",)


class FakeOtii:
    """Server, project, recording and device of ``otii-tcp-client`` 1.0 in one."""

    name, id = "Arc", "1"
    calls: list[str]

    def __init__(self) -> None:
        self.calls = []

    def connect(self, **where: Any) -> FakeOtii:
        return self

    def get_devices(self) -> list[FakeOtii]:
        return [self]

    def get_active_project(self) -> FakeOtii:
        return self

    get_last_recording = get_active_project

    def get_main_voltage(self) -> float:
        return 4.0

    def get_channel_data_count(self, device: str, channel: str) -> int:
        return 100

    def get_channel_data(self, device: str, channel: str, index: int, count: int) -> dict[str, Any]:
        return {"timestamp": index * 0.00025, "interval": 0.00025, "values": [0.5] * count}

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append(name)


def test_otii(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeOtii()
    package = types.ModuleType("otii_tcp_client")
    client = types.SimpleNamespace(OtiiClient=lambda: server, OtiiClientException=RuntimeError)
    package.otii_client = client  # type: ignore[attr-defined]
    package.otii_exception = types.SimpleNamespace(Otii_Exception=RuntimeError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "otii_tcp_client", package)
    meter = open_meter("otii")
    samples = meter.read()
    assert [values for _, values in samples] == [(2.0,), (2.0,)]  # blocks of 40 of a hundred values
    assert samples[1][0] - samples[0][0] == 10_000_000
    meter.close()
    assert server.calls == [
        "add_to_project",
        "enable_channel",
        "start_recording",
        "stop_recording",
        "disconnect",
    ]


def test_rapl_module_says_what_a_package_leaves_out(tmp_path: Path) -> None:
    facts = rapl.open_meter(plant(tmp_path, sensor_trees.rapl()), {}).facts
    assert (facts.coverage, "power supply" in facts.leaves_out) == ("package", True)
