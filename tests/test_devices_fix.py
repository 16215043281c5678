"""``devices check --fix`` on this machine with a board's file tree."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from devices.device import DeviceEntry
from devices.local import LocalConnection
from devices.preflight_checks import CheckResult
from harness.cli import main
from harness.devices_fix import fix


def finding(name: str, state: str = "warning") -> CheckResult:
    return CheckResult(name, state, "found", "wanted", "remedy")  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    policy = tmp_path / "root" / "sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_governor").write_text("ondemand\n")
    (policy / "scaling_available_governors").write_text("ondemand performance\n")
    cpu = tmp_path / "root" / "sys/devices/system/cpu/cpu0"
    (cpu / "cpufreq").mkdir(parents=True)
    (cpu / "cpufreq" / "scaling_governor").symlink_to(policy / "scaling_governor")
    return tmp_path / "root"


def test_the_governor_is_set_and_looked_at_again(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text(f"""
[devices.desk]
connection = "local"
python = "{sys.executable}"
directory = "{tmp_path / "agent"}"
root = "{root}"
""")
    command = ["devices", "check", "desk", "--lab", str(lab), "--json"]
    main(command)
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["governor"]["found"] == "ondemand"
    assert "performance" in checks["governor"]["remedy"]
    main([*command, "--fix"])
    output = capsys.readouterr()
    checks = {check["name"]: check for check in json.loads(output.out)}
    assert checks["governor"]["state"] == "ok"
    assert "set the governor of 1 policies to performance" in output.err


def test_model_files_make_room_and_what_is_fine_is_left_alone(tmp_path: Path, root: Path) -> None:
    files = tmp_path / "agent" / "1" / "artifacts"
    files.mkdir(parents=True)
    (files / ("ab" * 32)).write_bytes(b"x" * 1000)
    entry = DeviceEntry(
        "desk", "local", python=sys.executable, directory=str(tmp_path / "agent"), root=str(root)
    )
    with LocalConnection("desk") as connection:
        assert fix(connection, entry, [finding("disk", "ok"), finding("clock")], print) == []
        assert list(files.iterdir())
        (said,) = fix(connection, entry, [finding("disk", "refused")], print)
    assert said.startswith("removed 1 model files, 0 MB")
    assert not list(files.iterdir())


def test_what_cannot_be_mended_is_said(tmp_path: Path, root: Path) -> None:
    policy = root / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    policy.unlink()
    policy.mkdir()  # nobody can write to it, root neither
    entry = DeviceEntry("desk", "local", python=sys.executable, root=str(root))
    with LocalConnection("desk") as connection:
        (said,) = fix(connection, entry, [finding("governor")], print)
    assert said == "not mended: the governor of 1 policies cannot be written without asking for a password"
