"""The agent, for real: on this machine, over the local connection, with the real runtimes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from devices.agent_archive import archive
from devices.agent_client import AgentClient
from devices.local import LocalConnection
from results.errors import (
    BoardHeld,
    ConfigError,
    ConnectionLost,
    OutOfMemory,
    RuntimeRefused,
    SessionCrashed,
    SessionTimeout,
)
from results.records import Artifact, Plan, Target
from tests.connection_contract import gone
from tests.fixtures_agent import (
    LITERT,
    ORT,
    QUICK,
    TFLITE_RUNTIME,
    children,
    family,
    put,
    session_pid,
    start,
    works,
)
from tests.tiny_models import (
    artifact_of,
    onnx_convolution,
    onnx_of_inputs,
    onnx_of_size,
    onnx_product,
    onnx_without_end,
    tflite_convolution,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentClient]:
    """An agent for tests that leave it as it was."""
    with start(tmp_path_factory.mktemp("board")) as agent:
        yield agent


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[AgentClient]:
    """An agent for tests that do things to it."""
    with start(tmp_path / "board") as agent:
        yield agent


def file_for(target: Target, **options: int) -> tuple[Artifact, bytes]:
    data = (onnx_convolution if target.file_format == "onnx" else tflite_convolution)(**options)
    return artifact_of(data, target.file_format), data


def run(agent: AgentClient, target: Target, data: bytes, plan: Plan = QUICK, **options: object):
    artifact = put(agent, artifact_of(data, target.file_format), data)
    return agent.session(artifact, target, plan, **options)  # type: ignore[arg-type]


def endless(agent: AgentClient) -> Callable[[], object]:
    """A session that never ends by itself."""
    put(agent, artifact_of(onnx_without_end(), "onnx"), onnx_without_end())
    return lambda: run(agent, ORT, onnx_without_end())


def in_the_middle(agent: AgentClient, action: Callable[[int], None]) -> Future[object]:
    """Runs an endless session, does something to its process, and gives what came of it."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(endless(agent))
        action(session_pid(agent))
        future.exception(timeout=30)
    return future


def at_rest(agent: AgentClient) -> list[int]:
    """The children that sleep, one for each runtime, once no other one is left of a session."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        below = [children(server) for server in children(agent.hello.pid)]
        if all(len(each) == 1 and not works(each[0]) for each in below):
            for _ in range(2):  # once it has answered the second, it has dealt with all it heard before
                agent.ping()
            return [each[0] for each in below]
        time.sleep(0.005)
    raise AssertionError(f"processes of sessions are left: {below}")


# --------------------------------------------------------------------------- who answers


def test_the_agent_that_answers_is_the_one_that_was_sent(shared: AgentClient) -> None:
    assert shared.hello.agent == archive().sha256
    assert shared.hello.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert shared.hello.pid != os.getpid()


def test_the_agent_is_carried_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried: list[str] = []
    put_really = LocalConnection.put

    def put_and_note(connection: LocalConnection, data: bytes, path: str) -> None:
        carried.append(path)
        put_really(connection, data, path)

    monkeypatch.setattr(LocalConnection, "put", put_and_note)
    for _ in range(2):
        start(tmp_path).close()
    assert carried == [f".cache/boardwise/1/{archive().name}"]


def test_a_damaged_agent_is_carried_over_again(tmp_path: Path) -> None:
    path = tmp_path / ".cache" / "boardwise" / "1" / archive().name
    path.parent.mkdir(parents=True)
    path.write_bytes(archive().data[:-1])
    with start(tmp_path) as agent:
        agent.ping()
    assert path.read_bytes() == archive().data


def test_probe_finds_both_runtimes_and_both_tflite_packages(shared: AgentClient) -> None:
    facts = shared.probe()
    assert facts.runtimes["onnxruntime"] == onnxruntime.__version__
    assert "(ai-edge-litert)" in facts.runtimes["tflite"]
    assert facts.cpus == len(os.sched_getaffinity(0))
    assert facts.memory_bytes > 1 << 27
    assert facts.libc.startswith("glibc 2.")
    assert facts.unit != "unknown"


def test_several_threads_may_ask(shared: AgentClient) -> None:
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(shared.ping) for _ in range(200)]:
            future.result(timeout=30)


# --------------------------------------------------------------------------- sessions


@pytest.mark.parametrize("target", [ORT, LITERT, TFLITE_RUNTIME], ids=lambda target: target.name)
def test_a_session_keeps_raw_runs_and_says_what_ran(shared: AgentClient, target: Target) -> None:
    artifact, data = file_for(target, size=32, channels=32)
    put(shared, artifact, data)
    before = time.time()
    result = shared.session(artifact, target, QUICK, role="reference", agent=3, seed=7)
    session, ran_on = result.session, result.ran_on
    assert (session.role, session.agent) == ("reference", 3)
    assert before <= session.started_at <= time.time()
    assert QUICK.min_runs <= len(session.durations_s) <= QUICK.max_runs
    assert sum(session.durations_s) * session.runs_per_sample >= QUICK.session_s
    assert session.load_s > 0
    assert session.cold_s > 0
    assert session.warmup_runs >= 4
    assert session.peak_memory_bytes is not None
    assert 1 << 22 < session.peak_memory_bytes < 1 << 30
    assert session.conditions.involuntary_switches is not None
    assert ran_on.threads == 1
    assert len(ran_on.cpus) == 1
    assert set(ran_on.cpus) <= os.sched_getaffinity(0)
    assert [tensor.dtype for tensor in result.inputs] == ["float32"]
    assert result.worked_s >= session.load_s + session.cold_s + QUICK.session_s


def test_providers_are_those_that_really_ran(shared: AgentClient) -> None:
    assert run(shared, ORT, onnx_convolution()).ran_on.provider == "CPUExecutionProvider"
    ran_on = run(shared, LITERT, tflite_convolution()).ran_on
    assert (ran_on.runtime, ran_on.provider) == ("tflite (ai-edge-litert)", "XNNPACK (2 of 3 operators)")
    ran_on = run(shared, TFLITE_RUNTIME, tflite_convolution()).ran_on
    assert (ran_on.runtime, ran_on.version) == ("tflite (tflite-runtime)", "2.14.0")
    without = Target("desk", "tflite", options=(("threads", 1), ("xnnpack", False)))
    assert run(shared, without, tflite_convolution()).ran_on.provider == "built-in kernels"


def test_very_short_runs_are_timed_in_batches(shared: AgentClient) -> None:
    short = run(shared, ORT, onnx_product()[0]).session
    assert short.runs_per_sample > 1
    assert min(short.durations_s) < 1e-3
    long = run(shared, ORT, onnx_convolution(size=96, channels=32)).session
    assert long.runs_per_sample == 1


def test_plans_limit_the_runs(shared: AgentClient) -> None:
    data = onnx_convolution(size=64, channels=32)
    few = Plan("few", session_s=60.0, warmup_s=0.0, min_runs=2, max_runs=4)
    assert len(run(shared, ORT, data, few).session.durations_s) == 4
    exact = Plan("exact", session_s=0.0, warmup_s=0.0, min_runs=7, max_runs=9)
    assert len(run(shared, ORT, data, exact).session.durations_s) == 7


@pytest.mark.parametrize("optimization", ["all", "extended", "basic", "none"])
def test_onnxruntime_takes_its_options(shared: AgentClient, optimization: str) -> None:
    target = Target("desk", "onnxruntime", options=(("optimization", optimization), ("threads", 2)))
    assert run(shared, target, onnx_convolution()).ran_on.threads == 2


def test_inputs_of_every_common_type_are_filled(shared: AgentClient) -> None:
    kinds = [
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.INT8,
        TensorProto.UINT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT64,
    ]  # fmt: skip
    data = onnx_of_inputs(*[(f"x{kind}", kind, [2, 3]) for kind in kinds], ("scalar", TensorProto.FLOAT, []))
    result = run(shared, ORT, data)
    assert [tensor.shape for tensor in result.inputs] == [(2, 3)] * len(kinds) + [()]
    assert {"float16", "bool", "int8", "uint64"} <= {tensor.dtype for tensor in result.inputs}


def test_the_agent_lives_through_many_sessions(shared: AgentClient) -> None:
    run(shared, ORT, onnx_convolution())
    at_rest(shared)
    descriptors = Path(f"/proc/{shared.hello.pid}/fd")
    before = sorted(descriptors.iterdir())
    for _ in range(20):
        run(shared, ORT, onnx_convolution())
    at_rest(shared)
    assert sorted(descriptors.iterdir()) == before


def test_a_sleeping_child_that_is_killed_is_replaced(fresh: AgentClient) -> None:
    run(fresh, ORT, onnx_convolution())
    for _ in range(5):  # dead, or about to die when it is asked
        (sleeping,) = at_rest(fresh)
        os.kill(sleeping, signal.SIGKILL)
        assert run(fresh, ORT, onnx_convolution()).session.durations_s
        assert at_rest(fresh) != [sleeping]


def test_a_child_that_is_killed_before_it_takes_its_request_is_replaced(fresh: AgentClient) -> None:
    run(fresh, ORT, onnx_convolution())
    (sleeping,) = at_rest(fresh)
    os.kill(sleeping, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run, fresh, ORT, onnx_convolution())
        time.sleep(0.5)  # it is asked meanwhile; were it not, it would be replaced as well
        os.kill(sleeping, signal.SIGKILL)
        assert future.result(timeout=30).session.durations_s


def test_a_child_that_does_not_wake_up_is_killed(fresh: AgentClient) -> None:
    run(fresh, ORT, onnx_convolution())
    (sleeping,) = at_rest(fresh)
    os.kill(sleeping, signal.SIGSTOP)
    with pytest.raises(SessionTimeout):
        run(fresh, ORT, onnx_convolution(), Plan("hurried", load_limit_s=0.5))
    assert run(fresh, ORT, onnx_convolution()).session.durations_s


# --------------------------------------------------------------------------- outputs


def test_outputs_are_those_of_the_file(shared: AgentClient) -> None:
    data, weight = onnx_product()
    artifact = put(shared, artifact_of(data, "onnx"), data)
    rows = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)
    (one,) = shared.outputs(artifact, ORT, [rows[:1]], 30.0)
    np.testing.assert_allclose(one, rows[:1] @ weight, rtol=1e-5)
    (all_rows,) = shared.outputs(artifact, ORT, [rows], 30.0)
    np.testing.assert_allclose(all_rows, rows @ weight, rtol=1e-5)


def test_outputs_equal_the_hosts(shared: AgentClient) -> None:
    data = onnx_convolution(size=32)
    artifact = put(shared, artifact_of(data, "onnx"), data)
    images = np.random.default_rng(3).standard_normal((3, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": image[None]})[0] for image in images])
    (got,) = shared.outputs(artifact, ORT, [images], 30.0)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_both_tflite_packages_answer_alike(shared: AgentClient) -> None:
    data = tflite_convolution()
    artifact = put(shared, artifact_of(data, "tflite"), data)
    image = np.random.default_rng(4).standard_normal((1, 16, 16, 3)).astype(np.float32)
    answers = [shared.outputs(artifact, target, [image], 30.0)[0] for target in (LITERT, TFLITE_RUNTIME)]
    assert answers[0].shape == (1, 16, 16, 8)
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([np.zeros((1, 5), np.float32)], r"takes float32 of \[1, 4\], got float32 of \[1, 5\]"),
        ([np.zeros((1, 4), np.float64)], "got float64"),
        ([np.zeros((0, 4), np.float32)], r"\[0, 4\]"),
        ([np.zeros((1, 4), np.float32)] * 2, "has 1 inputs, got 2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shared: AgentClient, given: list, reason: str) -> None:
    data, _ = onnx_product()
    artifact = put(shared, artifact_of(data, "onnx"), data)
    with pytest.raises(RuntimeRefused, match=reason):
        shared.outputs(artifact, ORT, given, 30.0)


# --------------------------------------------------------------------------- a candidate's fault


@pytest.mark.parametrize("target", [ORT, LITERT, TFLITE_RUNTIME], ids=lambda target: target.name)
def test_a_damaged_file_is_refused_with_the_runtimes_words(shared: AgentClient, target: Target) -> None:
    _, data = file_for(target)
    for broken in (b"no model at all", data[: len(data) // 2]):
        with pytest.raises((RuntimeRefused, SessionCrashed), match=r"\w+: \w+"):
            run(shared, target, broken)
    assert run(shared, target, data).session.durations_s


def test_open_sizes_are_refused_with_the_remedy(shared: AgentClient) -> None:
    with pytest.raises(RuntimeRefused, match=r"\(\?, 3, 16, 16\).*--shape x=1,3,16,16"):
        run(shared, ORT, onnx_convolution(batch="n"))


def test_too_much_memory_is_told_as_such(shared: AgentClient) -> None:
    with pytest.raises(OutOfMemory):
        run(shared, ORT, onnx_of_size(1 << 50))


def test_a_hang_is_a_timeout_and_the_agent_lives(fresh: AgentClient) -> None:
    run(fresh, ORT, onnx_convolution())
    plan = Plan("hurried", load_limit_s=0.5)
    with pytest.raises(SessionTimeout, match=r"0\.5 s"):
        run(fresh, ORT, onnx_without_end(), plan)
    at_rest(fresh)
    assert run(fresh, ORT, onnx_convolution()).session.durations_s


def test_a_hang_while_answering_is_a_timeout(fresh: AgentClient) -> None:
    artifact = put(fresh, artifact_of(onnx_without_end(), "onnx"), onnx_without_end())
    with pytest.raises(SessionTimeout, match=r"0\.3 s"):
        fresh.outputs(artifact, ORT, [np.ones(1, np.float32)], 0.3)
    fresh.ping()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_costs_one_session(fresh: AgentClient, number: signal.Signals) -> None:
    future = in_the_middle(fresh, lambda pid: os.kill(pid, number))
    with pytest.raises(SessionCrashed, match=number.name):
        future.result()
    assert run(fresh, ORT, onnx_convolution()).session.durations_s


def test_a_kill_by_the_kernel_for_memory_is_told_as_such(tmp_path: Path) -> None:
    vmstat = tmp_path / "root" / "proc" / "vmstat"
    vmstat.parent.mkdir(parents=True)
    vmstat.write_text("oom_kill 3\n")

    def kill(pid: int) -> None:
        vmstat.write_text("oom_kill 4\n")
        os.kill(pid, signal.SIGKILL)

    with start(tmp_path / "board", root=str(tmp_path / "root")) as agent:
        future = in_the_middle(agent, kill)
        with pytest.raises(OutOfMemory, match="memory was full"):
            future.result()


# --------------------------------------------------------------------------- the user's fault


@pytest.mark.parametrize(
    ("runtime", "options", "reason"),
    [
        ("onnxruntime", {"thread": 1}, "no option 'thread'; it has optimization, provider, threads"),
        ("onnxruntime", {"threads": 0}, "threads is a whole number from 1 to 256, not 0"),
        ("onnxruntime", {"threads": True}, "not True"),
        ("onnxruntime", {"optimization": "most"}, "one of 'all', 'extended', 'basic', 'none', not 'most'"),
        ("onnxruntime", {"package": "tflite-runtime"}, "comes in the packages onnxruntime, not in"),
        ("tflite", {"xnnpack": 1}, "one of True, False, not 1"),
        ("tflite", {"package": "tensorflow"}, "ai-edge-litert, tflite-runtime"),
        ("onxruntime", {}, "unknown runtime 'onxruntime'; known: onnxruntime, tflite"),
    ],
)
def test_options_that_do_not_exist_are_named(
    shared: AgentClient, runtime: str, options: dict, reason: str
) -> None:
    data = onnx_convolution()
    artifact = put(shared, artifact_of(data, "onnx"), data)
    with pytest.raises(ConfigError, match=reason):
        shared.session(artifact, Target("desk", runtime, options=tuple(options.items())), QUICK)


# --------------------------------------------------------------------------- the board's fault


def test_a_board_is_held_by_one(fresh: AgentClient, tmp_path: Path) -> None:
    with pytest.raises(BoardHeld, match="anna at tests, since 20"):
        start(tmp_path / "board", holder="ben")
    fresh.close()
    start(tmp_path / "board", holder="ben").close()


def test_an_agent_that_is_killed_is_a_lost_connection(fresh: AgentClient, tmp_path: Path) -> None:
    processes: list[int] = []

    def kill(pid: int) -> None:
        processes.extend(family(fresh.hello.pid))
        os.kill(fresh.hello.pid, signal.SIGKILL)

    future = in_the_middle(fresh, kill)
    with pytest.raises(ConnectionLost):
        future.result()
    assert len(processes) == 3
    assert gone(processes)
    with pytest.raises(ConnectionLost):
        fresh.ping()
    start(tmp_path / "board").close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_agent_and_its_children(fresh: AgentClient, number: signal.Signals) -> None:
    processes: list[int] = []

    def end(pid: int) -> None:
        processes.extend(family(fresh.hello.pid))
        os.kill(fresh.hello.pid, number)

    with pytest.raises(ConnectionLost):
        in_the_middle(fresh, end).result()
    assert gone(processes)


def test_closing_in_the_middle_ends_everything(fresh: AgentClient) -> None:
    processes: list[int] = []

    def close(pid: int) -> None:
        processes.extend(family(fresh.hello.pid))
        fresh.close()
        fresh.close()

    with pytest.raises(ConnectionLost, match="closed"):
        in_the_middle(fresh, close).result()
    assert gone(processes)


def test_a_fork_server_that_is_killed_is_started_again(fresh: AgentClient) -> None:
    def kill(pid: int) -> None:
        os.kill(children(fresh.hello.pid)[0], signal.SIGKILL)

    future = in_the_middle(fresh, kill)
    with pytest.raises(ConnectionLost, match="onnxruntime has gone"):
        future.result()
    assert run(fresh, ORT, onnx_convolution()).session.durations_s
    os.kill(children(fresh.hello.pid)[0], signal.SIGKILL)
    assert gone(children(fresh.hello.pid))
    with pytest.raises(ConnectionLost):
        run(fresh, ORT, onnx_convolution())
    assert run(fresh, ORT, onnx_convolution()).session.durations_s


def test_a_thread_that_is_interrupted_ends_the_conversation(fresh: AgentClient) -> None:
    """Its answer would otherwise be taken for that to the next question."""
    started = threading.Event()

    class Interrupted(BaseException):
        pass

    receive = fresh._conversation._channel.receive

    def interrupted(limit_s: float) -> bytes:
        started.set()
        raise Interrupted

    fresh._conversation._channel.receive = interrupted  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        fresh.ping()
    fresh._conversation._channel.receive = receive  # type: ignore[method-assign]
    with pytest.raises(ConnectionLost, match="broke off"):
        fresh.ping()
