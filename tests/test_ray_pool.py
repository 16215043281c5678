"""Trainings with Ray on this machine: the bytes of the training pool, and what happens to its workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import ray

from results.errors import TrainingError
from results.records import Fidelity
from search.ray_pool import RayPool
from search.training import TrainingJob, TrainingResult
from search.training_pool import TrainingPool
from search.training_worker import stat_fields
from tests.fixtures_training import small_network, task_file
from tests.test_training_pool import BUSY, LIMIT_S, count, job, wait_until

DIGITS = TrainingJob(small_network(), "digits", {}, Fidelity(3), seed=3)


@pytest.fixture(scope="module")
def pool() -> Iterator[RayPool]:
    with RayPool(1, coming=("digits", {}), checkpoint_every_s=0.0) as made:
        yield made
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def here() -> TrainingResult:
    with TrainingPool(1) as processes:
        return processes.submit(DIGITS).result(LIMIT_S)


def same_bytes(a: TrainingResult, b: TrainingResult) -> bool:
    return a.curve == b.curve and all(a.weights[k].tobytes() == b.weights[k].tobytes() for k in a.weights)


def worker(pool: RayPool) -> int:
    """Process number of the only worker."""
    (pid,) = pool._actors._living.values()
    assert pid is not None
    return pid


def test_actors_give_the_bytes_of_the_training_pool(pool: RayPool, here: TrainingResult) -> None:
    told: list[tuple[int, float]] = []
    result = pool.submit(DIGITS, lambda *epoch: told.append(epoch)).result(LIMIT_S)
    assert same_bytes(result, here)
    assert told == [(i + 1, score) for i, score in enumerate(here.curve)]
    ended = pool.submit(DIGITS, lambda epoch, score: epoch == 2, may_stop=True).result(LIMIT_S)
    assert (ended.curve, ended.stopped) == (here.curve[:2], True)


def test_a_killed_actor_costs_the_epoch_that_was_under_way(pool: RayPool, here: TrainingResult) -> None:
    told: list[int] = []

    def on_epoch(epoch: int, score: float) -> bool:
        if epoch == 2 and not told.count(2):
            os.kill(worker(pool), signal.SIGKILL)
        told.append(epoch)
        return False

    assert same_bytes(pool.submit(DIGITS, on_epoch, may_stop=True).result(LIMIT_S), here)
    assert told == [1, 2, 3]


def test_errors_come_as_they_are(pool: RayPool, tmp_path: Path) -> None:
    task = task_file(tmp_path, "def train(module, run):\n    raise KeyError('mine')")
    with pytest.raises(TrainingError, match=r"(?s)task\.py.*KeyError: 'mine'"):
        pool.submit(job(task)).result(LIMIT_S)


def test_nothing_runs_in_a_pause_and_closing_ends_it_all_the_same(pool: RayPool, tmp_path: Path) -> None:
    future = pool.submit(job(task_file(tmp_path, BUSY)))
    wait_until(lambda: count(tmp_path) > 0)
    pool.pause()
    pid = worker(pool)
    assert stat_fields(pid)[0] == "T"
    before = count(tmp_path)
    pool.resume()
    wait_until(lambda: count(tmp_path) > before)
    pool.pause()
    pool.close()
    with pytest.raises(CancelledError):
        future.result(LIMIT_S)
    wait_until(lambda: stat_fields(pid)[:1] in ([], ["Z"]))
