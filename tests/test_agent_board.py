"""What the agent reads of a board, from trees of files as boards have them, and its cache of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.agent import messages
from devices.agent.cache import Cache
from devices.agent.conditions import Sensors, between
from devices.agent.cpus import clusters, fastest_first
from devices.agent.facts import probe
from devices.agent.failures import Failure
from devices.agent_client import AgentClient
from results.errors import BoardDiskFull, PreflightError, ProtocolError
from tests.connection_contract import on_a_small_disk
from tests.fixtures_agent import ORT, QUICK, put, start
from tests.tiny_models import artifact_of, onnx_convolution

CPU = "sys/devices/system/cpu/cpu{}/{}"
PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def tree(root: Path, files: dict[str, object]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return str(root)


def cpu_files(speeds: dict[int, int], siblings: dict[int, str] | None = None) -> dict[str, object]:
    """CPUs with their greatest clock [kHz]."""
    files: dict[str, object] = {}
    for cpu, khz in speeds.items():
        files[CPU.format(cpu, "cpufreq/cpuinfo_max_freq")] = khz
        files[CPU.format(cpu, "cpufreq/scaling_cur_freq")] = khz // 2
        files[CPU.format(cpu, "cpufreq/scaling_governor")] = "ondemand"
        files[CPU.format(cpu, "topology/thread_siblings_list")] = (siblings or {}).get(cpu, cpu)
    return files


# --------------------------------------------------------------------------- CPUs


def test_clusters_come_fastest_first(tmp_path: Path) -> None:
    root = tree(tmp_path, cpu_files({0: 1800000, 1: 1800000, 4: 2400000, 10: 2400000}))
    assert [(group.max_hz, group.cpus) for group in clusters(root)] == [
        (2400000000, (4, 10)),
        (1800000000, (0, 1)),
    ]


def test_capacity_counts_before_the_clock(tmp_path: Path) -> None:
    """A little core may have the higher clock."""
    files = cpu_files({0: 2000000, 1: 1900000})
    files |= {CPU.format(0, "cpu_capacity"): 400, CPU.format(1, "cpu_capacity"): 1024}
    assert fastest_first(tree(tmp_path, files), {0, 1}) == [1, 0]


def test_cpu_0_is_the_last_of_its_kind_and_second_threads_of_cores_wait(tmp_path: Path) -> None:
    siblings = {0: "0-1", 1: "0-1", 2: "2,3", 3: "2,3"}
    root = tree(tmp_path, cpu_files(dict.fromkeys(range(4), 3000000), siblings))
    assert fastest_first(root, {0, 1, 2, 3}) == [2, 0, 3, 1]


def test_only_cpus_that_are_allowed_are_given(tmp_path: Path) -> None:
    root = tree(tmp_path, cpu_files({0: 1000000, 1: 1000000, 2: 2000000}))
    assert fastest_first(root, {0, 1}) == [1, 0]
    assert fastest_first(str(tmp_path / "nothing"), {3, 5}) == [5, 3]


# --------------------------------------------------------------------------- conditions

PI = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": 61234,
    PI_THROTTLED: "0",
    "proc/loadavg": "0.25 0.10 0.05 1/200 1234",
    "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\nfull avg10=0 total=5",
    "proc/vmstat": "pswpin 5\npswpout 7\noom_kill 0",
    **cpu_files({0: 1500000, 1: 1500000}),
}


def test_a_quiet_pi(tmp_path: Path) -> None:
    sensors = Sensors(tree(tmp_path, PI))
    before = sensors.read([1])
    found = between(before, sensors.read([1]), 2.0)
    assert found["temperature_before_c"] == 61.234
    assert found["clock_before_hz"] == 750e6
    assert found["load_average"] == 0.25
    assert (found["throttle_events"], found["cpu_pressure"], found["swapped_pages"]) == (0, 0.0, 0)
    assert found["major_faults"] == 0


def test_a_busy_pi_that_throttles(tmp_path: Path) -> None:
    sensors = Sensors(tree(tmp_path, PI))
    before = sensors.read([0])
    tree(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": 84500,
            PI_THROTTLED: "60006",  # capped and throttled now, and both have been since
            CPU.format(0, "cpufreq/scaling_cur_freq"): 600000,
            "proc/pressure/cpu": "some avg10=50.00 avg60=0.00 avg300=0.00 total=501000",
            "proc/vmstat": "pswpin 6\npswpout 17",
        },
    )
    found = between(before, sensors.read([0]), 2.0)
    assert found["temperature_after_c"] == 84.5
    assert found["clock_after_hz"] == 600e6
    assert found["throttle_events"] == 2
    assert found["cpu_pressure"] == 0.25
    assert found["swapped_pages"] == 11


def test_old_throttling_is_not_counted_again(tmp_path: Path) -> None:
    sensors = Sensors(tree(tmp_path, {**PI, PI_THROTTLED: "50000"}))
    assert between(sensors.read([0]), sensors.read([0]), 1.0)["throttle_events"] == 0


def test_cooling_that_slows_counts_and_fans_do_not(tmp_path: Path) -> None:
    cooling = "sys/class/thermal/cooling_device{}/{}"
    files = {
        cooling.format(0, "type"): "thermal-cpufreq-0",
        cooling.format(0, "cur_state"): 0,
        cooling.format(1, "type"): "pwm-fan",
        cooling.format(1, "cur_state"): 3,
        cooling.format(2, "type"): "TCC Offset",
        cooling.format(2, "cur_state"): 4,
    }
    sensors = Sensors(tree(tmp_path, files))
    before = sensors.read([0])
    assert between(before, sensors.read([0]), 1.0)["throttle_events"] == 0
    tree(tmp_path, {cooling.format(0, "cur_state"): 2})
    assert between(before, sensors.read([0]), 1.0)["throttle_events"] == 1


def test_counters_of_x86_and_jetson(tmp_path: Path) -> None:
    core = CPU.format(0, "thermal_throttle/core_throttle_count")
    over_current = "sys/class/hwmon/hwmon2/oc1_event_cnt"
    sensors = Sensors(tree(tmp_path, {core: 10, over_current: 1, "sys/class/hwmon/hwmon2/oc3_event_cnt": 5}))
    before = sensors.read([0])
    tree(tmp_path, {core: 13, over_current: 2, "sys/class/hwmon/hwmon2/oc3_event_cnt": 500})
    assert between(before, sensors.read([0]), 1.0)["throttle_events"] == 4


def test_temperature_leaves_out_what_is_not_the_soc(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone{}/{}"
    files = {
        zone.format(0, "type"): "PMIC-Die",  # a constant 100 degrees on some Jetsons
        zone.format(0, "temp"): 100000,
        zone.format(1, "type"): "GPU-therm",
        zone.format(1, "temp"): 45500,
        zone.format(2, "type"): "CPU-therm",
        zone.format(2, "temp"): -256000,
    }
    assert Sensors(tree(tmp_path, files)).read([0]).temperature_c == 45.5


def test_temperature_from_hwmon_where_there_are_no_zones(tmp_path: Path) -> None:
    files = {"sys/class/hwmon/hwmon0/name": "nvme", "sys/class/hwmon/hwmon0/temp1_input": 70000}
    files |= {"sys/class/hwmon/hwmon1/name": "k10temp", "sys/class/hwmon/hwmon1/temp1_input": 52125}
    assert Sensors(tree(tmp_path, files)).read([0]).temperature_c == 52.125


def test_a_board_that_tells_nothing_gives_none(tmp_path: Path) -> None:
    reading = Sensors(str(tmp_path)).read([0])
    found = between(reading, reading, 1.0)
    told = {key for key, value in found.items() if value is not None}
    assert told == {"involuntary_switches", "major_faults"}


# --------------------------------------------------------------------------- facts


def test_facts_of_a_pi(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/device-tree/serial-number": "10000000abcdef01\0",
            "proc/meminfo": "MemTotal:        3884604 kB\nMemFree: 1 kB",
            "proc/sys/kernel/random/boot_id": "11111111-2222",
            "etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
            **cpu_files({0: 1800000}),
        },
    )
    facts = probe(root, str(tmp_path))
    assert facts["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert facts["unit"] == hashlib.sha256(b"10000000abcdef01").hexdigest()[:16]
    assert facts["memory_bytes"] == 3884604 * 1024
    assert facts["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert facts["governor"] == "ondemand"
    assert facts["clusters"] == [[1800000000, [0]]]
    assert facts["boot_id"] == "11111111-2222"


def test_facts_of_a_pc(tmp_path: Path) -> None:
    dmi = "sys/class/dmi/id/"
    root = tree(
        tmp_path, {dmi + "sys_vendor": "LENOVO", dmi + "product_name": "20XW", "etc/machine-id": "ab"}
    )
    facts = probe(root, str(tmp_path))
    assert facts["model"] == "LENOVO 20XW"
    assert facts["unit"] == hashlib.sha256(b"ab").hexdigest()[:16]
    assert facts["governor"] == "unknown"


# --------------------------------------------------------------------------- the cache


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentClient]:
    with start(tmp_path, cache_bytes=10_000) as agent:
        yield agent


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(home: Path) -> set[str]:
    return {path.name for path in (home / ".cache" / "boardwise" / "1" / "artifacts").iterdir()}


def test_files_are_kept_by_hash(agent: AgentClient, tmp_path: Path) -> None:
    data = [b"one", b"", bytes(5000)]
    names = [name_of(each) for each in data]
    assert agent.missing(names) == names
    for name, each in zip(names, data, strict=True):
        agent.put(name, each)
    assert agent.missing([*names, "0" * 64]) == ["0" * 64]
    assert files(tmp_path) == set(names)


def test_a_file_that_came_wrong_is_not_kept(agent: AgentClient, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="has the hash"):
        agent.put(name_of(b"right"), b"wrong")
    assert files(tmp_path) == set()
    with pytest.raises(ProtocolError, match="is no SHA-256"):
        agent.put("../../.bashrc", b"wrong")
    agent.ping()


def test_a_session_without_its_file_says_so(agent: AgentClient) -> None:
    with pytest.raises(PreflightError, match="no whole file"):
        agent.session(artifact_of(b"never sent", "onnx"), ORT, QUICK)


@pytest.mark.parametrize("damage", [b"damage", b""])
def test_a_file_that_was_damaged_meanwhile_is_asked_for_again(tmp_path: Path, damage: bytes) -> None:
    data = onnx_convolution()
    artifact = artifact_of(data, "onnx")
    path = tmp_path / ".cache" / "boardwise" / "1" / "artifacts" / artifact.sha256
    with start(tmp_path) as agent:
        put(agent, artifact, data)
    path.write_bytes(damage + data[len(damage) :] if damage else b"")
    with start(tmp_path) as agent:
        assert agent.missing([artifact.sha256]) == [artifact.sha256]
        put(agent, artifact, data)
        agent.session(artifact, ORT, QUICK)
    with start(tmp_path) as agent:
        assert agent.missing([artifact.sha256]) == []
        path.unlink()
        assert agent.missing([artifact.sha256]) == [artifact.sha256]


def test_the_least_recently_used_file_makes_room(tmp_path: Path) -> None:
    data = onnx_convolution()
    model = artifact_of(data, "onnx")
    others = [bytes([i]) * 5000 for i in range(3)]
    with start(tmp_path, cache_bytes=len(data) + 10_500) as agent:
        put(agent, model, data)
        for each in others[:2]:
            agent.put(name_of(each), each)
        agent.session(model, ORT, QUICK)
        agent.put(name_of(others[2]), others[2])
        assert files(tmp_path) == {model.sha256, name_of(others[1]), name_of(others[2])}
    with start(tmp_path, cache_bytes=len(data) + 5_500) as agent:
        agent.put(name_of(b"x"), b"x")
        assert files(tmp_path) == {model.sha256, name_of(others[2]), name_of(b"x")}


def test_a_file_larger_than_the_cache_is_refused(agent: AgentClient) -> None:
    with pytest.raises(BoardDiskFull, match="20000 bytes are more than the 10000"):
        agent.put(name_of(bytes(20_000)), bytes(20_000))
    agent.put(name_of(bytes(5_000)), bytes(5_000))


def test_what_a_killed_agent_left_half_received_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "boardwise" / "1" / "artifacts"
    folder.mkdir(parents=True)
    (folder / ".receiving").write_bytes(b"half")
    start(tmp_path).close()
    assert files(tmp_path) == set()


def test_a_full_disk_is_told_as_such_and_nothing_is_left(tmp_path: Path) -> None:
    def fill() -> None:
        cache = Cache(str(tmp_path / "artifacts"), 1 << 30)
        receiving = cache.receive(name_of(bytes(1_000_000)), 1_000_000)
        for _ in range(10):
            receiving.write(bytes(100_000))
        try:
            receiving.finish()
        except Failure as failure:
            if failure.kind != "disk_full" or any((tmp_path / "artifacts").iterdir()):
                raise
            return
        raise AssertionError("a million bytes went into 64 KiB")

    assert on_a_small_disk(tmp_path, fill) is None


# --------------------------------------------------------------------------- messages


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_messages_survive_any_cut(step: int) -> None:
    wire = messages.encode({"a": "é\n"}, b"\n{}\n") + messages.encode({"b": None}) + messages.encode({}, b"x")
    decoder = messages.Decoder(100)
    got: list[tuple[dict[str, object], bytes]] = []
    content = b""
    for start_of_piece in range(0, len(wire), step):
        for header, piece, complete in decoder.feed(wire[start_of_piece : start_of_piece + step]):
            content += piece
            if complete:
                got.append((header, content))
                content = b""
    assert got == [({"a": "é\n", "bytes": 4}, b"\n{}\n"), ({"b": None}, b""), ({"bytes": 1}, b"x")]


def test_a_message_is_never_made_of_what_json_has_not() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        messages.encode({"a": float("nan")})
