"""The frequency governor on a tree of files: set while an agent lives, set back however it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from devices.agent.governor import clock_settings
from tests.fixtures_agent import start


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A board with two policies and what else tells its speed."""
    files = {
        "sys/devices/system/cpu/cpufreq/boost": "1\n",
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "918000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    }
    for number, value in ((0, "schedutil"), (4, "ondemand")):
        policy = f"sys/devices/system/cpu/cpufreq/policy{number}"
        files[f"{policy}/scaling_governor"] = f"{value}\n"
        files[f"{policy}/scaling_available_governors"] = "ondemand schedutil performance\n"
        files[f"{policy}/scaling_min_freq"] = "408000\n"
        files[f"{policy}/scaling_max_freq"] = "1800000\n"
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "root"


def governors(root: Path) -> list[str]:
    found = root.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_governor")
    return [path.read_text().strip() for path in sorted(found)]


def await_governors(root: Path, wanted: list[str]) -> None:
    deadline = time.monotonic() + 60
    while governors(root) != wanted:
        assert time.monotonic() < deadline, governors(root)
        time.sleep(0.01)


def test_set_while_the_agent_lives_and_back_when_it_ends(tmp_path: Path, root: Path) -> None:
    with start(tmp_path / "home", root=str(root), steady=True):
        assert governors(root) == ["performance", "performance"]
    await_governors(root, ["schedutil", "ondemand"])


def test_a_killed_agent_leaves_the_board_as_it_was(tmp_path: Path, root: Path) -> None:
    agent = start(tmp_path / "home", root=str(root), steady=True)
    os.kill(agent.hello.pid, signal.SIGKILL)
    await_governors(root, ["schedutil", "ondemand"])
    agent.close()


def test_after_a_power_cut_the_next_agent_sets_back(tmp_path: Path, root: Path) -> None:
    home = tmp_path / "home"
    start(home).close()
    (state,) = home.rglob("governor.lock")
    paths = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_governor"))
    for path in paths:
        path.write_text("performance")
    saved = {str(path): value for path, value in zip(paths, ("schedutil", "ondemand"), strict=True)}
    state.with_name("governor.json").write_text(json.dumps(saved))
    start(home, root=str(root)).close()
    assert governors(root) == ["schedutil", "ondemand"]
    state.with_name("governor.json").write_text('{"damaged')
    start(home, root=str(root)).close()
    assert not state.with_name("governor.json").exists()


def test_what_somebody_else_set_meanwhile_stays(tmp_path: Path, root: Path) -> None:
    with start(tmp_path / "home", root=str(root), steady=True):
        (root / "sys/devices/system/cpu/cpufreq/policy4/scaling_governor").write_text("powersave")
    await_governors(root, ["schedutil", "powersave"])


def test_a_policy_that_does_not_know_it_and_an_agent_that_was_not_asked_change_nothing(
    tmp_path: Path, root: Path
) -> None:
    (root / "sys/devices/system/cpu/cpufreq/policy4/scaling_available_governors").write_text("ondemand\n")
    with start(tmp_path / "home", root=str(root)):
        assert governors(root) == ["schedutil", "ondemand"]
    with start(tmp_path / "home", root=str(root), steady=True):
        assert governors(root) == ["performance", "ondemand"]


def test_the_settings_that_decide_the_speed_are_facts(tmp_path: Path, root: Path) -> None:
    with start(tmp_path / "home", root=str(root)) as agent:
        assert agent.probe().settings == {
            "nvpmodel": "pmode:0002 fmode:quiet",
            "boost": "1",
            "cpu_clocks": "free up to 1800000",
            "devfreq_17000000.gpu": "locked at 918000000",
        }
    assert clock_settings(str(tmp_path / "nothing")) == {}
