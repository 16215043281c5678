"""The host as one slot: work and measuring exclude each other."""

from __future__ import annotations

import threading

from harness.host import Host


class Recorder:
    def __init__(self) -> None:
        self.depth = 0

    def pause(self) -> None:
        self.depth += 1

    def resume(self) -> None:
        self.depth -= 1


def test_background_stops_while_measuring_even_after_an_error() -> None:
    host, pool = Host(), Recorder()
    host.set_background(pool)
    try:
        with host.quiet():
            assert pool.depth == 1
            raise RuntimeError("lost")
    except RuntimeError:
        pass
    assert pool.depth == 0
    with host.busy():
        assert pool.depth == 0


def test_busy_and_quiet_exclude_each_other() -> None:
    host = Host()
    inside: list[str] = []
    overlaps: list[list[str]] = []
    lock = threading.Lock()

    def enter(kind: str) -> None:
        with host.busy() if kind == "busy" else host.quiet():
            with lock:
                inside.append(kind)
                overlaps.append(list(inside))
            with lock:
                inside.remove(kind)

    threads = [threading.Thread(target=enter, args=(kind,)) for kind in ("busy", "quiet", "busy") * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(set(state)) == 1 for state in overlaps)
    assert all(state.count("quiet") <= 1 for state in overlaps)


def test_who_wants_to_measure_goes_before_new_work() -> None:
    host = Host()
    order: list[str] = []
    release = threading.Event()
    working = threading.Event()

    def work() -> None:
        with host.busy():
            working.set()
            release.wait()

    def measure() -> None:
        with host.quiet():
            order.append("quiet")

    def work_later() -> None:
        with host.busy():
            order.append("busy")

    first = threading.Thread(target=work)
    first.start()
    working.wait()
    second = threading.Thread(target=measure)
    second.start()
    while not host._waiting:
        pass
    third = threading.Thread(target=work_later)
    third.start()
    release.set()
    for thread in (first, second, third):
        thread.join()
    assert order == ["quiet", "busy"]
