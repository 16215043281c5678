"""The training pool: same results as in this process, survives what happens to processes, leaves none behind.

Jobs whose length matters wait for a file or write one; nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from results.errors import ConfigError, DataError, TrainingError
from results.records import Fidelity
from search import training_pool
from search.training import TrainingJob, train
from search.training_pool import TrainingPool
from search.training_processes import how_it_ended
from search.training_worker import stat_fields
from tests.fixtures_training import small_network, task_file

LIMIT_S = 120.0
"""Longest wait for something that must happen."""

BUSY = """
    from pathlib import Path

    def train(module, run):
        here = Path(__file__).parent
        for count in range(10**9):
            (here / "count").write_text(str(count))
            if (here / "stop").exists():
                break
"""


def job(task: str, *, time_limit_s: float = float("inf")) -> TrainingJob:
    network = small_network(outputs=2, depth=1, width=4)
    return TrainingJob(network, task, {}, Fidelity(1), seed=0, time_limit_s=time_limit_s)


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def workers() -> list[int]:
    return [p.pid for p in multiprocessing.active_children() if p.name == "boardwise-training" and p.pid]


def state(pid: int) -> str:
    """State letter of a process; empty for one that is gone."""
    fields = stat_fields(pid)
    return fields[0] if fields else ""


def count(folder: Path) -> int:
    """How far a busy job has come; -1 before it begins or in the middle of a write."""
    path = folder / "count"
    text = path.read_text() if path.exists() else ""
    return int(text) if text else -1


@pytest.fixture
def pool() -> Iterator[TrainingPool]:
    with TrainingPool(1, checkpoint_every_s=0.0) as pool:
        yield pool


# --------------------------------------------------------------------------- results


def test_workers_give_the_bytes_that_this_process_gives() -> None:
    digits = TrainingJob(small_network(), "digits", {}, Fidelity(2), seed=3)
    told: list[tuple[int, float]] = []
    with TrainingPool(2) as pool:
        futures = [pool.submit(digits, lambda *epoch: told.append(epoch)) for _ in range(2)]
        results = [future.result(LIMIT_S) for future in futures]
    here = train(digits)
    for result in results:
        assert result.curve == here.curve
        assert {k: v.tobytes() for k, v in result.weights.items()} == {
            k: v.tobytes() for k, v in here.weights.items()
        }
    assert sorted(told) == sorted([(i + 1, score) for i, score in enumerate(here.curve)] * 2)


def test_errors_come_as_they_are(pool: TrainingPool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        pool.submit(job(str(tmp_path / "none.npz"))).result(LIMIT_S)
    task = task_file(tmp_path, "def train(module, run):\n    raise KeyError('mine')")
    with pytest.raises(TrainingError, match=r"(?s)task\.py.*KeyError: 'mine'"):
        pool.submit(job(task)).result(LIMIT_S)


def test_a_display_that_fails_does_not_end_a_training(
    pool: TrainingPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = pool.submit(job(task_file(tmp_path)), lambda epoch, score: 1 // 0 > 0)
    assert len(future.result(LIMIT_S).curve) == 1
    assert "ZeroDivisionError" in caplog.text


def test_relative_paths_are_those_of_this_process(
    pool: TrainingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(pool.submit(job("task.py")).result(LIMIT_S).curve) == 1


def test_a_waiting_job_can_be_cancelled(pool: TrainingPool, tmp_path: Path) -> None:
    task = task_file(tmp_path, BUSY)
    running, waiting = pool.submit(job(task)), pool.submit(job(task))
    wait_until(lambda: count(tmp_path) >= 0)
    assert waiting.cancel()
    assert not running.cancel()
    (tmp_path / "stop").touch()
    running.result(LIMIT_S)


# --------------------------------------------------------------------------- killed, hanging


def test_a_killed_worker_is_replaced_and_its_job_tried_again(pool: TrainingPool, tmp_path: Path) -> None:
    code = """
        import os, signal
        from pathlib import Path
        def train(module, run):
            mark = Path(__file__).parent / "tried"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    """
    assert pool.submit(job(task_file(tmp_path, code))).result(LIMIT_S).weights


ENDS = {
    "os.kill(os.getpid(), 9)": "ended 2 times, last: killed by SIGKILL; .* but the kernel tells of none",
    "os.kill(os.getpid(), 11)": "ended 2 times, last: killed by SIGSEGV$",
    "os.abort()": "ended 2 times, last: killed by SIGABRT$",
    "os._exit(0)": "ended 2 times, last: it ended itself with exit status 0$",
    "os._exit(3)": "ended 2 times, last: it ended itself with exit status 3$",
    "raise KeyboardInterrupt('mine')": r"(?s)task\.py.*KeyboardInterrupt: mine$",
    "sys.exit(0)": r"(?s)task\.py.*SystemExit: 0$",
}


@pytest.mark.parametrize("line", ENDS)
def test_a_job_that_ends_its_worker_twice_has_failed_and_only_what_is_known_is_said(
    pool: TrainingPool, tmp_path: Path, line: str
) -> None:
    code = f"def train(module, run):\n    import os, sys\n    {line}"
    with pytest.raises(TrainingError, match=ENDS[line]):
        pool.submit(job(task_file(tmp_path, code))).result(LIMIT_S)
    if "exit(3)" in line:
        assert pool.submit(job(task_file(tmp_path))).result(LIMIT_S).weights


@pytest.mark.parametrize(
    ("exitcode", "for_memory", "said"),
    [
        (-9, True, "killed by SIGKILL: the kernel was out of memory"),
        (
            -9,
            False,
            "killed by SIGKILL; too little memory is the most common cause, but the kernel tells of none",
        ),
        (-11, True, "killed by SIGSEGV"),
        (-40, False, "killed by signal 40"),
        (None, False, "it closed its connection and still ran"),
    ],
)
def test_memory_is_blamed_where_the_kernel_does(exitcode: int | None, for_memory: bool, said: str) -> None:
    assert how_it_ended(exitcode, for_memory=for_memory) == said


def test_a_script_without_a_main_guard_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n"
        "from tests.test_training_pool import job\n"
        "from search.training_pool import TrainingPool\n"
        "with TrainingPool(1) as pool:\n"
        f"    pool.submit(job({task_file(tmp_path)!r})).result({LIMIT_S})\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": str(root)}, check=True)
    assert (tmp_path / "ran").read_text() == "x"


def test_a_killed_worker_costs_the_epoch_that_was_under_way(pool: TrainingPool) -> None:
    digits = TrainingJob(small_network(), "digits", {}, Fidelity(4), seed=3)
    told: list[int] = []

    def on_epoch(epoch: int, score: float) -> bool:
        if epoch == 2 and told.count(2) == 0:
            os.kill(workers()[0], signal.SIGKILL)  # it waits for the answer: no epoch can end meanwhile
        told.append(epoch)
        return False

    result = pool.submit(digits, on_epoch, may_stop=True).result(LIMIT_S)
    here = train(digits)
    assert told == [1, 2, 3, 4]
    assert result.curve == here.curve
    assert {k: v.tobytes() for k, v in result.weights.items()} == {
        k: v.tobytes() for k, v in here.weights.items()
    }


def test_a_job_whose_worker_is_killed_again_and_again_ends_if_its_epochs_do(pool: TrainingPool) -> None:
    digits = TrainingJob(small_network(depth=1, width=4), "digits", {}, Fidelity(4), seed=3)

    def on_epoch(epoch: int, score: float) -> None:
        os.kill(workers()[0], signal.SIGKILL)

    assert len(pool.submit(digits, on_epoch, may_stop=True).result(LIMIT_S).curve) == 4


def test_a_job_that_comes_no_further_has_failed(tmp_path: Path) -> None:
    """Its epochs are too short to be kept: it begins again and dies where it died before."""
    digits = TrainingJob(small_network(depth=1, width=4), "digits", {}, Fidelity(3), seed=3)
    told: list[int] = []

    def on_epoch(epoch: int, score: float) -> None:
        told.append(epoch)
        if epoch == 2:
            os.kill(workers()[0], signal.SIGKILL)

    with (
        TrainingPool(1, checkpoint_every_s=1e9) as pool,
        pytest.raises(TrainingError, match="ended 2 times, last: killed by SIGKILL"),
    ):
        pool.submit(digits, on_epoch, may_stop=True).result(LIMIT_S)
    assert told == [1, 2, 1, 2]


def test_a_training_is_ended_from_outside(pool: TrainingPool) -> None:
    digits = TrainingJob(small_network(), "digits", {}, Fidelity(3), seed=3)
    result = pool.submit(digits, lambda epoch, score: epoch == 2, may_stop=True).result(LIMIT_S)
    assert (len(result.curve), result.stopped) == (2, True)
    unasked = pool.submit(digits, lambda epoch, score: True).result(LIMIT_S)
    assert (len(unasked.curve), unasked.stopped) == (3, False)


def test_workers_start_before_there_is_a_job_where_the_task_is_known() -> None:
    with TrainingPool(2, coming=("digits", {})) as pool:
        wait_until(lambda: len(workers()) == 2)
        digits = TrainingJob(small_network(depth=1, width=4), "digits", {}, Fidelity(1), seed=3)
        assert pool.submit(digits).result(LIMIT_S).curve
    with TrainingPool(1, coming=("no such task", {})) as pool:
        future = pool.submit(job("no such task"))
        with pytest.raises(DataError, match="no such task"):
            future.result(LIMIT_S)


def test_a_worker_killed_while_it_waits_costs_nothing(pool: TrainingPool, tmp_path: Path) -> None:
    pool.submit(job(task_file(tmp_path))).result(LIMIT_S)
    (pid,) = workers()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not state(pid))
    assert pool.submit(job(task_file(tmp_path))).result(LIMIT_S).weights


def test_a_killed_fork_server_is_replaced(pool: TrainingPool, tmp_path: Path) -> None:
    pool.submit(job(task_file(tmp_path))).result(LIMIT_S)
    (pid,) = workers()
    os.kill(int(stat_fields(pid)[1]), signal.SIGKILL)
    wait_until(lambda: not state(pid))  # workers die with it
    assert pool.submit(job(task_file(tmp_path))).result(LIMIT_S).weights


def test_code_that_does_not_come_back_is_killed(
    pool: TrainingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_pool, "_GRACE_S", 0.0)
    monkeypatch.setattr(training_pool, "_TICK_S", 0.05)
    task = task_file(tmp_path, "def train(module, run):\n    while True:\n        pass")
    with pytest.raises(TrainingError, match=r"time limit of 0\.5 s of CPU time; killed"):
        pool.submit(job(task, time_limit_s=0.5)).result(LIMIT_S)


def test_code_that_hangs_is_killed(
    pool: TrainingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_pool, "_STALLED_TICKS", 50)
    monkeypatch.setattr(training_pool, "_TICK_S", 0.05)
    task = task_file(tmp_path, "import time\ndef train(module, run):\n    time.sleep(10**6)")
    with pytest.raises(TrainingError, match=r"used no CPU for 2\.5 s"):
        pool.submit(job(task)).result(LIMIT_S)


def test_the_fork_server_is_deaf_to_interrupts_from_its_start(pool: TrainingPool, tmp_path: Path) -> None:
    """It imports PyTorch before it looks after signals: a Ctrl-C meanwhile gave a traceback."""
    pool.submit(job(task_file(tmp_path))).result(timeout=LIMIT_S)
    server = int(stat_fields(workers()[0])[1])
    status = Path(f"/proc/{server}/status").read_text()
    blocked = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk"))
    assert blocked >> (signal.SIGINT - 1) & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_workers_leave_interrupts_to_the_main_process(pool: TrainingPool, tmp_path: Path) -> None:
    future = pool.submit(job(task_file(tmp_path, BUSY)))
    wait_until(lambda: count(tmp_path) >= 0)
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGINT)
    (tmp_path / "stop").touch()
    assert future.result(LIMIT_S).weights


# --------------------------------------------------------------------------- pauses


def test_nothing_runs_in_a_pause(pool: TrainingPool, tmp_path: Path) -> None:
    future = pool.submit(job(task_file(tmp_path, BUSY)))
    wait_until(lambda: count(tmp_path) >= 0)
    pool.pause()
    (pid,) = workers()
    before = (tmp_path / "count").read_text(), training_pool._cpu_s(pid)
    pool.pause()
    pool.resume()
    time.sleep(0.2)
    assert state(pid) == "T"
    assert ((tmp_path / "count").read_text(), training_pool._cpu_s(pid)) == before
    pool.resume()
    reached = int(before[0] or 0)
    wait_until(lambda: count(tmp_path) > reached)
    (tmp_path / "stop").touch()
    assert future.result(LIMIT_S).weights


def test_a_worker_started_in_a_pause_is_paused(pool: TrainingPool, tmp_path: Path) -> None:
    task = task_file(tmp_path)
    pool.submit(job(task)).result(LIMIT_S)
    pool.pause()
    (pid,) = workers()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not state(pid))
    future = pool.submit(job(task))
    wait_until(lambda: workers() and state(workers()[0]) == "T")
    assert not future.done()
    pool.resume()
    assert future.result(LIMIT_S).weights


def test_a_pool_paused_from_the_start(tmp_path: Path) -> None:
    with TrainingPool(2) as pool:
        pool.pause()
        futures = [pool.submit(job(task_file(tmp_path))) for _ in range(2)]
        wait_until(lambda: [state(pid) for pid in workers()] == ["T", "T"])
        assert not any(future.done() for future in futures)
        pool.resume()
        assert all(future.result(LIMIT_S).weights for future in futures)


def test_a_resume_without_a_pause_is_a_mistake(pool: TrainingPool) -> None:
    with pytest.raises(RuntimeError, match="not paused"):
        pool.resume()


# --------------------------------------------------------------------------- the end


def test_closing_ends_everything(tmp_path: Path) -> None:
    pool = TrainingPool(2)
    task = task_file(tmp_path, BUSY)
    running, waiting = [pool.submit(job(task)) for _ in range(2)], pool.submit(job(task))
    wait_until(lambda: count(tmp_path) >= 0 and len(workers()) == 2 and all(f.running() for f in running))
    pids = [process.pid or 0 for process in multiprocessing.active_children()]
    pool.pause()
    pool.close()
    pool.close()
    for future in (*running, waiting):
        with pytest.raises(CancelledError):
            future.result(LIMIT_S)
    assert len(pids) == 3  # two workers and their guard
    assert not multiprocessing.active_children()
    wait_until(lambda: not any(state(pid) for pid in pids))  # reaped, no zombies
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(job(task))


def test_a_pool_needs_workers() -> None:
    with pytest.raises(ConfigError, match="at least 1 worker, got 0"):
        TrainingPool(0)


MAIN = """
import multiprocessing, sys, time
from pathlib import Path
from tests.test_training_pool import count, job, wait_until, workers
from search.training_pool import TrainingPool

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pool = TrainingPool(2)
    for _ in range(2):
        pool.submit(job(str(folder / "task.py")))
    if sys.argv[2] == "early":  # so early that a worker is stopped before it has run a line
        wait_until(lambda: len(workers()) >= 1)  # both may be there by the time of a look
        pool.pause()
        wait_until(lambda: len(workers()) == 2)
    else:
        wait_until(lambda: count(folder) >= 0 and len(workers()) == 2)
        pool.pause()
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    if sys.argv[2] != "leave":
        time.sleep(10**6)
"""


def start_main(folder: Path, what: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Another main process with a paused pool, and its children."""
    task_file(folder, BUSY)
    (folder / "main.py").write_text(MAIN)
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(folder / "main.py"), str(folder), what],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 3
    return process, pids


@pytest.mark.parametrize("when", ["early", "late"])
def test_stopped_workers_die_with_a_killed_main_process(tmp_path: Path, when: str) -> None:
    process, pids = start_main(tmp_path, when)
    server = int(stat_fields(pids[0])[1])
    assert "T" in [state(pid) for pid in pids]
    process.kill()
    process.communicate(timeout=LIMIT_S)
    wait_until(lambda: all(state(pid) in ("", "Z") for pid in [*pids, server]))


def test_a_main_process_that_forgets_to_close_ends_all_the_same(tmp_path: Path) -> None:
    process, pids = start_main(tmp_path, "leave")
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert errors == ""
    wait_until(lambda: all(state(pid) in ("", "Z") for pid in pids))
