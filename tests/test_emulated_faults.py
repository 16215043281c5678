"""Every fault that an emulated board can be made to have: the right error, and a study that goes on.

The tests share one board, which each of them leaves as it was.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from devices import agent_conversation
from devices.board_agent import BoardAgent
from devices.device import connect
from devices.emulation.board import TRIMMED_ABOVE_BYTES, TRIMMED_TO_BYTES, EmulatedBoard
from harness.board import Board
from harness.config import board_of
from harness.host import Host
from harness.measure import Job, measure
from results.errors import BoardDiskFull, ConnectionLost, OutOfMemory
from results.records import Plan, Target
from tests.tiny_models import artifact_of, onnx_convolution, onnx_of_size

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

SHORT = Plan("test", sessions=(1, 1), session_s=0.001, warmup_s=0.0, min_runs=5, max_runs=5, load_limit_s=600)
LONG = replace(SHORT, min_runs=100, max_runs=100)
"""A session of some seconds of the host's time, in the middle of which something can happen."""

STRIKE_AFTER_S = 0.1
"""A session takes at least some 10 ms of the board's time, that is 0.2 s and more of the host's."""

MIB = 1 << 20
SEEDS = itertools.count()
"""Every measurement is of a file that the board does not have yet."""


@dataclass
class Struck(Job):
    """A job during whose first session something happens to the board; its others go by ``SHORT``."""

    strike: Callable[[], None] = lambda: None
    struck: list[threading.Thread] = field(default_factory=list)

    def run_session(self, agent: BoardAgent, number: int, seed: int) -> None:
        if not self.struck:
            self.struck.append(threading.Timer(STRIKE_AFTER_S, self.strike))
            self.struck[0].start()
        elif self.error is None:
            self.struck[0].join()
            self.plan = SHORT
        super().run_session(agent, number, seed)


def job(device: str, plan: Plan = SHORT, strike: Callable[[], None] | None = None) -> Job:
    data = onnx_convolution(channels=8, size=16, layers=3, seed=next(SEEDS))
    given = (artifact_of(data, "onnx"), data, Target(device, "onnxruntime"), plan)
    return Job(*given) if strike is None else Struck(*given, strike=strike)


@pytest.fixture(scope="module")
def watched(shared_pi4: EmulatedBoard) -> Iterator[tuple[Board, list[str]]]:
    """The board as a study uses it, and what is said of it."""
    said: list[str] = []
    board = board_of(
        shared_pi4.entry,
        "a test",
        Host(),
        give_up_after_s=300.0,
        on_state=lambda name, state: said.append(state),
    )
    yield board, said
    board.close()


@pytest.fixture
def used(watched: tuple[Board, list[str]]) -> Board:
    """The board, its runtime loaded: what happens in a session happens in its runs."""
    assert goes_on(watched[0])
    return watched[0]


@pytest.fixture
def states(used: Board, watched: tuple[Board, list[str]]) -> list[str]:
    """What is said of the board from now on."""
    watched[1].clear()
    return watched[1]


def goes_on(board: Board) -> bool:
    """Whether the next network is measured as if nothing had happened."""
    return len(measure(board, job(board.name)).sessions) == 1


def was_away(states: list[str]) -> bool:
    return any(state.startswith("offline") for state in states) and states[-1] == "online"


# --------------------------------------------------------------------------- pause, resume


def test_a_pause_is_silence_and_breaks_nothing(shared_pi4: EmulatedBoard) -> None:
    shared_pi4.resume()
    with connect(shared_pi4.entry) as connection:
        assert connection.run(["true"]).returncode == 0
        shared_pi4.pause()
        with pytest.raises(ConnectionLost):
            connection.run(["true"], limit_s=1.0)
        shared_pi4.resume()
        assert connection.run(["true"]).returncode == 0


def test_a_session_goes_on_after_a_pause(used: Board, shared_pi4: EmulatedBoard, states: list[str]) -> None:
    def strike() -> None:
        shared_pi4.pause()
        time.sleep(1.0)
        shared_pi4.resume()

    assert len(measure(used, job(used.name, LONG, strike)).sessions) == 1
    assert states == [], "it was never away"
    assert goes_on(used)


def test_a_board_that_falls_silent_is_lost_and_measured_again(
    used: Board, shared_pi4: EmulatedBoard, states: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_conversation, "CANCEL_LIMIT_S", 2.0)
    wanted = job(used.name, replace(SHORT, load_limit_s=4.0), shared_pi4.pause)
    assert len(measure(used, wanted).sessions) == 1
    assert was_away(states)


# --------------------------------------------------------------------------- power


def test_a_power_cut_in_a_session_is_a_loss_of_the_board_alone(
    used: Board, shared_pi4: EmulatedBoard, states: list[str]
) -> None:
    assert len(measure(used, job(used.name, LONG, shared_pi4.power_cut)).sessions) == 1
    assert was_away(states)
    assert goes_on(used)


def test_a_crash_of_qemu_in_a_session_is_a_loss_of_the_board_alone(
    used: Board, shared_pi4: EmulatedBoard, states: list[str]
) -> None:
    assert len(measure(used, job(used.name, LONG, shared_pi4.machine.kill)).sessions) == 1
    assert was_away(states)
    assert goes_on(used)


def test_a_power_cycle_in_a_session_is_another_boot_with_the_same_disk(
    used: Board, shared_pi4: EmulatedBoard, states: list[str]
) -> None:
    boot = used.facts.boot_id
    shared_pi4.resume()
    with connect(shared_pi4.entry) as connection:
        connection.put(b"written", "kept")
        assert connection.run(["sync"]).returncode == 0
    assert len(measure(used, job(used.name, LONG, shared_pi4.power_cycle)).sessions) == 1
    assert was_away(states)
    assert used.facts.boot_id != boot
    shared_pi4.resume()
    with connect(shared_pi4.entry) as connection:
        assert connection.run(["cat", "kept"]).stdout == b"written"


# --------------------------------------------------------------------------- network


def test_a_cut_network_is_a_lost_connection(shared_pi4: EmulatedBoard) -> None:
    shared_pi4.resume()
    with connect(shared_pi4.entry) as connection:
        assert connection.run(["true"]).returncode == 0
        shared_pi4.cut_network()
        with pytest.raises(ConnectionLost):
            connection.run(["true"], limit_s=1.0)
        shared_pi4.mend_network()


def test_a_session_outlasts_a_cut_of_the_network(used: Board, shared_pi4: EmulatedBoard) -> None:
    def strike() -> None:
        shared_pi4.cut_network()
        time.sleep(1.0)
        shared_pi4.mend_network()

    assert len(measure(used, job(used.name, LONG, strike)).sessions) == 1
    assert goes_on(used)


def test_a_slow_network_changes_no_figure(used: Board, shared_pi4: EmulatedBoard) -> None:
    shared_pi4.resume()
    shared_pi4.slow_network(0.1)
    started = time.monotonic()
    assert goes_on(used)
    assert time.monotonic() - started > 0.1
    shared_pi4.mend_network()
    assert goes_on(used)


# --------------------------------------------------------------------------- disk, memory, clock


def test_a_full_disk_is_said_to_be_full(used: Board, shared_pi4: EmulatedBoard) -> None:
    shared_pi4.resume()
    shared_pi4.fill_disk()
    data = bytes(40 * MIB)  # a file that is not there yet; what is in it is not looked at before
    with pytest.raises(BoardDiskFull):
        measure(used, Job(artifact_of(data, "onnx"), data, Target(used.name, "onnxruntime"), SHORT))
    shared_pi4.resume()
    shared_pi4.free_disk()
    assert goes_on(used)


def test_too_little_memory_is_the_files_fault_and_no_others(used: Board, shared_pi4: EmulatedBoard) -> None:
    data = onnx_of_size(50_000_000)
    large = Job(artifact_of(data, "onnx"), data, Target(used.name, "onnxruntime"), SHORT)
    shared_pi4.resume()
    shared_pi4.limit_memory(192 * MIB)
    with pytest.raises(OutOfMemory):
        measure(used, large)
    assert goes_on(used)
    shared_pi4.limit_memory(shared_pi4.hardware.profile.memory_bytes)
    large.error = None
    assert len(measure(used, large).sessions) == 1


def test_memory_that_a_board_no_longer_needs_is_given_back(used: Board, shared_pi4: EmulatedBoard) -> None:
    shared_pi4.resume()
    shared_pi4.root("sh", "-c", "head -c 150000000 /dev/zero > /tmp/full; rm /tmp/full")
    assert shared_pi4.machine.resident_bytes > TRIMMED_ABOVE_BYTES
    assert len(measure(used, job(used.name)).sessions) == 1  # at its end the board is trimmed
    assert shared_pi4.machine.resident_bytes < TRIMMED_ABOVE_BYTES
    assert goes_on(used)


def test_memory_that_was_taken_from_a_board_stays_away(shared_pi4: EmulatedBoard) -> None:
    full_bytes = shared_pi4.hardware.profile.memory_bytes
    shared_pi4.resume()
    shared_pi4.limit_memory(480 * MIB)
    until_it_has(shared_pi4, 480 * MIB)
    shared_pi4.machine.squeeze(full_bytes, TRIMMED_TO_BYTES)
    until_it_has(shared_pi4, 480 * MIB)
    shared_pi4.limit_memory(full_bytes)
    until_it_has(shared_pi4, full_bytes)


def until_it_has(board: EmulatedBoard, memory_bytes: int) -> None:
    with board.machine.qmp() as qmp:
        deadline = time.monotonic() + 60
        while qmp.execute("query-balloon")["actual"] != memory_bytes:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_wrong_clock_changes_nothing(used: Board, shared_pi4: EmulatedBoard) -> None:
    shared_pi4.resume()
    shared_pi4.skew_clock(-86400.0)
    measured = measure(used, job(used.name))
    assert measured.sessions[0].started_at == pytest.approx(time.time(), abs=600), "by the host's clock"
    shared_pi4.resume()
    with connect(shared_pi4.entry) as connection:
        shown_s = float(connection.run(["date", "+%s"]).stdout)
    assert shown_s == pytest.approx(time.time() - 86400, abs=600)
    shared_pi4.skew_clock(0.0)
