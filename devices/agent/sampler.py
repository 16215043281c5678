"""The process that reads a meter while something runs.

It is not the agent's own, because a meter may block, and not the session's, because it must not stand in
its way: it runs on the CPU that a session is given last.  It reads once per period of the sensor, each time
at a random moment within half a period of the grid, so that work that repeats with the sensor's own period
is seen at all its phases (on a fixed grid such work was measured 45 % wrong, with jitter 1.6 %).  It keeps
what it reads and sends it when it is told to stop.

It says ``ready`` with the facts of the meter once that gives values, or ``failed``; after ``stop`` it says
``trace`` with the samples behind it, or ``failed``.
"""

from __future__ import annotations

import array
import math
import os
import random
import select
import socket
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from . import cpus, messages, metering, options, processes
from .failures import Failure, describe

SHARE = 0.02
"""Most of a CPU that reading may take; a meter that takes more is read less often."""

PROBE_S, STILL_S = 5.0, 1.0
CHANGES_TO_TELL, LEAST_CHANGES = 8, 2
"""From how many changes of the figure, and for how long, the sensor's own period is learnt; one with coarse
steps may well stand still."""

GLITCHES = 20
GLITCHES_S = 5.0
"""Readings in a row that may fail, and for how long, before the meter counts as gone."""

NEGATIVE_STEPS = 3.0


class Sampler:
    """What runs in that process.

    Args:
        control: Its end of the socket to the agent.
        root: Where the machine's file tree starts.
        request: ``meter`` (empty: the machine's own), ``options``, ``seed``, ``limit_s``.
    """

    def __init__(self, control: socket.socket, root: str, request: Mapping[str, Any]) -> None:
        self._control = control
        self._root = root
        self._request = request
        self._random = random.Random(request["seed"])
        self._times_ns = array.array("q")
        self._values: List["array.array[float]"] = []
        self._failure: Optional[Failure] = None
        self._glitches = 0
        self._first_glitch_ns = 0
        self._slowest_read_ns = 0

    def serve(self, parent: int) -> None:
        """Opens the meter, samples until told to stop, sends what there is."""
        processes.die_with_parent(processes.load_libc(), parent)
        self._leave_the_fast_cpus()
        try:
            meter = self._open()
        except Failure as failure:
            self._say({"failed": failure.reply()})
            return
        except metering.Glitch as error:
            self._say({"failed": Failure("meter", str(error)).reply()})
            return
        except Exception as error:  # noqa: BLE001 - a vendor's package may raise anything; the host is told
            self._say({"failed": Failure("meter", describe(error)).reply()})
            return
        started = (metering.now_ns(), time.process_time())
        try:
            self._sample(meter)
        finally:
            meter.close()
        elapsed_s = (metering.now_ns() - started[0]) / 1e9
        self._send_trace(meter.facts, (time.process_time() - started[1]) / elapsed_s)

    def _leave_the_fast_cpus(self) -> None:
        allowed = cpus.fastest_first(self._root, os.sched_getaffinity(0))
        if len(allowed) > 1:
            os.sched_setaffinity(0, allowed[-1:])

    def _open(self) -> Any:
        name = str(self._request["meter"]) or metering.built_in(self._root)
        plugin = metering.plugin(name)
        meter = plugin.open_meter(self._root, options.read(name, plugin.OPTIONS, self._request["options"]))
        facts = meter.facts
        self._values = [array.array("d") for _ in facts.channels]
        self._period_s, change_s = self._probe(meter)
        described = dict(facts._asdict(), meter=name, period_s=self._period_s, change_s=change_s)
        del described["certain_period"]
        self._say({"ready": described})
        return meter

    def _probe(self, meter: Any) -> Tuple[float, float]:
        """How often to read, and how often the figure changes [s]."""
        facts = meter.facts
        read_s = max(facts.period_s, self._cost_s(meter) / SHARE)
        if facts.kind == metering.COUNTER or facts.certain_period:
            return read_s, read_s
        gaps_s = self._gaps_s(meter, STILL_S if facts.resolution_w else PROBE_S)
        if len(gaps_s) < LEAST_CHANGES:
            return read_s, read_s  # a figure that stands still tells nothing of its period
        change_s = sorted(gaps_s)[len(gaps_s) // 2]
        return read_s, change_s if change_s > 1.5 * read_s else read_s

    def _gaps_s(self, meter: Any, limit_s: float) -> List[float]:
        """Times between changes of the figure, until there are enough to tell or the limit passes."""
        changes: List[int] = []
        last: Optional[Tuple[float, ...]] = None
        end_ns = metering.now_ns() + int(limit_s * 1e9)
        while metering.now_ns() < end_ns and len(changes) <= CHANGES_TO_TELL:
            for at_ns, values in self._read(meter):
                if last is not None and values != last:
                    changes.append(at_ns)
                last = values
            if self._failure is not None:
                raise self._failure
            time.sleep(meter.facts.period_s / 2)
        return [(later - earlier) / 1e9 for earlier, later in zip(changes, changes[1:])]

    def _cost_s(self, meter: Any) -> float:
        """CPU time of a reading [s]."""
        before_s = time.process_time()
        for _ in range(3):
            self._read(meter)
        if self._failure is not None:
            raise self._failure
        return (time.process_time() - before_s) / 3

    def _sample(self, meter: Any) -> None:
        """Reads until there is something to hear, or the limit passes with nobody asking."""
        period_ns = int(self._period_s * 1e9)
        grid_ns = metering.now_ns()
        end_ns = grid_ns + int(self._request["limit_s"] * 1e9)
        while metering.now_ns() < end_ns and self._failure is None:
            at_ns = grid_ns + int((self._random.random() - 0.5) * period_ns)
            if self._wait(at_ns):
                break
            for sample in self._read(meter):
                self._keep(sample)
            grid_ns += period_ns
            behind_ns = metering.now_ns() - grid_ns
            if behind_ns > period_ns:
                grid_ns += behind_ns - behind_ns % period_ns
        if self._failure is not None or metering.now_ns() >= end_ns:
            select.select([self._control], [], [])

    def _wait(self, at_ns: int) -> bool:
        """Sleeps until a moment; true if the agent has something to say before it."""
        pause_s = max(0.0, (at_ns - metering.now_ns()) / 1e9)
        return bool(select.select([self._control], [], [], pause_s)[0])

    def _read(self, meter: Any) -> Sequence[metering.Sample]:
        """The samples since the last time; a failure is kept, what may pass is passed over."""
        before_ns = metering.now_ns()
        try:
            samples: Sequence[metering.Sample] = meter.read()
        except Failure as failure:
            self._failure = failure
            return []
        except metering.Glitch as error:
            self._glitch(str(error), before_ns)
            return []
        self._glitches = 0
        self._slowest_read_ns = max(self._slowest_read_ns, metering.now_ns() - before_ns)
        return samples

    def _glitch(self, text: str, at_ns: int) -> None:
        if self._glitches == 0:
            self._first_glitch_ns = at_ns
        self._glitches += 1
        if self._glitches >= GLITCHES or at_ns - self._first_glitch_ns > GLITCHES_S * 1e9:
            self._failure = Failure("meter", "%s (%d times in a row)" % (text, self._glitches))

    def _keep(self, sample: metering.Sample) -> None:
        at_ns, values = sample
        for value in values:
            if not math.isfinite(value):
                self._failure = Failure("meter", "the meter reads %s" % value)
                return
        self._times_ns.append(at_ns)
        for channel, value in zip(self._values, values):
            channel.append(value)

    def _send_trace(self, facts: metering.Facts, cpu_share: float) -> None:
        failure = self._failure or _absurd(facts, self._values)
        if failure is not None:
            self._say({"failed": failure.reply()})
            return
        header = {
            "count": len(self._times_ns),
            "channels": len(self._values),
            "cpu_share": cpu_share,
            "stamp_bound_s": self._slowest_read_ns / 2e9,
        }
        content = self._times_ns.tobytes() + b"".join(channel.tobytes() for channel in self._values)
        self._say({"trace": header}, content)

    def _say(self, header: Dict[str, Any], payload: bytes = b"") -> None:
        processes.write_all(self._control.fileno(), messages.encode(header, payload))


def _absurd(facts: metering.Facts, values: Sequence[Sequence[float]]) -> Optional[Failure]:
    """A total below zero by more than its zero may be off, or a counter that ran backwards."""
    if not values or not values[0]:
        return Failure("meter", "%s gave no value" % facts.source)
    if facts.kind == metering.COUNTER:
        return None  # meters that count refuse that themselves
    allowed_w = NEGATIVE_STEPS * (facts.resolution_w + facts.offset_w)
    lowest_w = min(sum(values[i][n] for i in facts.total) for n in range(len(values[0])))
    if lowest_w < -allowed_w:
        message = "%s reads %.3g W, less than nothing; is the sensor wired the other way round?"
        return Failure("meter", message % (facts.source, lowest_w))
    return None
