"""What a preflight makes of what it was told; looks at real machines are in ``test_devices_cli.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from devices.agent_replies import BoardFacts
from devices.board_models import board_models
from devices.connection import Completed
from devices.device import DeviceEntry, Seen
from devices.interpreter import Interpreter
from devices.local import LocalConnection
from devices.preflight import check, examine, refuse
from devices.preflight_checks import CHECKS, CheckResult, Examined, MeterLook
from results.errors import ConfigError, PreflightError
from results.records import Conditions

FACTS = BoardFacts(
    model="Raspberry Pi 5 Model B Rev 1.0",
    machine="aarch64",
    unit="0123456789abcdef",
    kernel="6.6.31",
    os="Debian GNU/Linux 12 (bookworm)",
    libc="glibc 2.36",
    python="3.11.2",
    cpus=4,
    clusters=((2_400_000_000, (0, 1, 2, 3)),),
    memory_bytes=8 << 30,
    governor="performance",
    runtimes={"onnxruntime": "1.32.0"},
    meters=(),
    boot_id="boot",
    disk_free_bytes=10 << 30,
)
CONDITIONS = Conditions(
    temperature_before_c=48.0,
    temperature_after_c=50.0,
    throttle_events=0,
    load_average=0.1,
    cpu_pressure=0.0,
    swapped_pages=0,
)
SEEN = Seen("2026-11-24", FACTS.model, FACTS.unit, "aarch64", FACTS.os, FACTS.libc, "3.11.2", 4, 8 << 30)
FIT = Examined(
    entry=DeviceEntry("pi5", address="pi@192.0.2.7", board="raspberry-pi-5", seen=SEEN),
    board=board_models()["raspberry-pi-5"],
    interpreter=Interpreter((3, 11, 2), "CPython", "aarch64", (2, 36)),
    clock_ahead_s=0.4,
    available_bytes=7 << 30,
    facts=FACTS,
    ran={"onnxruntime": CONDITIONS},
    meter=MeterLook("rpi_pmic (rails): 3.1 W, a value every 0.02 s; runs of 10 s will do", True),
)


def result(examined: Examined, name: str) -> CheckResult:
    return next(one for one in check(examined) if one.name == name)


def test_a_fit_board_passes_everything() -> None:
    results = check(FIT)
    assert [one.name for one in results] == [one.name for one in CHECKS]
    assert {one.state for one in results} == {"ok"}
    assert not any(one.remedy for one in results)
    refuse("pi5", results)


@pytest.mark.parametrize(
    ("name", "state", "changes"),
    [
        ("Python", "refused", {"interpreter": replace(FIT.interpreter, version=(3, 7, 3))}),
        ("Python", "refused", {"interpreter": replace(FIT.interpreter, implementation="PyPy")}),
        ("C library", "refused", {"interpreter": replace(FIT.interpreter, glibc=None)}),
        ("lock", "refused", {"holder": "held by ada@lovelace"}),
        ("memory", "warning", {"available_bytes": 100 << 20}),
        ("clock", "warning", {"clock_ahead_s": -86_400.0}),
        ("smallest model", "refused", {"ran": {"onnxruntime": "abc: the process died of SIGILL"}}),
        ("power meter", "warning", {"meter": MeterLook("shelly at desk:80 does not answer", False)}),
        ("power meter", "warning", {"meter": MeterLook("rapl: Permission denied", False, "sudo chmod")}),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(name: str, state: str, changes: dict[str, Any]) -> None:
    found = result(replace(FIT, **changes), name)
    assert found.state == state
    assert found.remedy


@pytest.mark.parametrize(
    ("name", "changes", "remedy"),
    [
        ("runtimes", {"facts": replace(FACTS, runtimes={})}, "bring one: boardwise devices setup kitchen"),
        (
            "smallest model",
            {"ran": {"onnxruntime": "abc: the process died of SIGILL"}},
            "bring another version: boardwise devices setup kitchen --runtime RUNTIME --version VERSION",
        ),
    ],
)
def test_a_remedy_names_the_device(name: str, changes: dict[str, Any], remedy: str) -> None:
    found = result(replace(FIT, entry=replace(FIT.entry, name="kitchen"), **changes), name)
    assert found.remedy == remedy


def test_a_board_without_a_meter_is_no_worse() -> None:
    found = result(replace(FIT, meter=MeterLook("none: use an external meter")), "power meter")
    assert (found.state, found.found) == ("unknown", "none: use an external meter")
    assert result(replace(FIT, meter=None), "power meter").found == "not tried"


def test_a_meter_has_a_remedy_of_its_own() -> None:
    found = result(replace(FIT, meter=MeterLook("Permission denied", False, "sudo chmod a+r")), "power meter")
    assert found.remedy == "sudo chmod a+r"


@pytest.mark.parametrize(
    ("name", "state", "changes"),
    [
        ("unit", "refused", {"unit": "feedfeedfeedfeed"}),
        ("disk", "refused", {"disk_free_bytes": 100 << 20}),
        ("runtimes", "refused", {"runtimes": {}}),
        ("governor", "warning", {"governor": "ondemand"}),
        ("governor", "unknown", {"governor": "unknown"}),
    ],
)
def test_facts_are_judged(name: str, state: str, changes: dict[str, Any]) -> None:
    assert result(replace(FIT, facts=replace(FACTS, **changes)), name).state == state


@pytest.mark.parametrize(
    ("name", "state", "changes"),
    [
        ("load", "ok", {"load_average": 1.0}),  # 0.2 for each of 4 CPUs + 0.2
        ("load", "warning", {"load_average": 1.01}),
        ("load", "unknown", {"load_average": None}),
        ("CPU pressure", "ok", {"cpu_pressure": 0.01}),
        ("CPU pressure", "warning", {"cpu_pressure": 0.02}),
        ("CPU pressure", "unknown", {"cpu_pressure": None}),
        ("swapping", "warning", {"swapped_pages": 20}),
        ("swapping", "unknown", {"swapped_pages": None}),
        ("temperature", "ok", {"temperature_after_c": 70.0}),  # 10 below the soft limit of 80
        ("temperature", "warning", {"temperature_after_c": 70.5}),
        ("temperature", "unknown", {"temperature_after_c": None}),
        ("throttling", "warning", {"throttle_events": 1}),
        ("throttling", "unknown", {"throttle_events": None}),
    ],
)
def test_conditions_are_judged(name: str, state: str, changes: dict[str, Any]) -> None:
    examined = replace(FIT, ran={"onnxruntime": replace(CONDITIONS, **changes)})
    assert result(examined, name).state == state


def test_the_limit_of_an_unknown_board_is_not_guessed() -> None:
    hot = {"onnxruntime": replace(CONDITIONS, temperature_after_c=99.0)}
    examined = replace(FIT, board=board_models()["generic-linux"], ran=hot)
    assert result(examined, "temperature").state == "unknown"


def test_a_refusal_names_every_reason_and_remedy_but_no_warning() -> None:
    facts = replace(FACTS, runtimes={}, disk_free_bytes=0, governor="powersave")
    with pytest.raises(PreflightError) as caught:
        refuse("pi5", check(replace(FIT, facts=facts, ran={})))
    message = str(caught.value)
    for part in ("pi5: disk: 0 MB free", "make room", "runtimes: none", "boardwise devices setup pi5"):
        assert part in message
    assert "powersave" not in message


class Old(LocalConnection):
    """This machine, but its Python is an old one."""

    def run(self, argv: object, *, limit_s: float = 30.0, stdin: bytes = b"") -> Completed:
        answer = (
            b'{"version": [3, 6, 9], "implementation": "CPython", "machine": "aarch64", "bits": 64,'
            b' "libc": "glibc 2.27", "numpy": null, "free_threaded": false,'
            b' "time": 0, "available_bytes": null}'
        )
        return Completed(0, answer, b"")


def test_no_agent_is_started_where_none_can_run() -> None:
    def start(connection: object) -> Any:
        raise AssertionError("an agent was started")

    results = check(examine(Old("old"), DeviceEntry("old", "local"), start))
    states = {one.name: one.state for one in results}
    assert (states["Python"], states["disk"], states["memory"]) == ("refused", "unknown", "unknown")


def test_an_unknown_board_model_is_answered_with_the_nearest() -> None:
    entry = DeviceEntry("pi5", "local", board="rasberry-pi-5")
    with pytest.raises(
        ConfigError, match=r"\[devices.pi5\] board: unknown board 'rasberry-pi-5'; did you mean"
    ):
        examine(LocalConnection("pi5"), entry, lambda connection: pytest.fail("started"))
