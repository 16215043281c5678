"""Tries a board's power meter before anything depends on it: part of `boardwise devices check`."""

from __future__ import annotations

import math
import time

from devices.agent_client import AgentClient
from devices.agent_meter import start_meter, stop_meter
from devices.agent_replies import BoardFacts
from devices.board_agent import BoardAgent
from devices.preflight_checks import MeterLook
from harness.energy import NO_PLATEAU_IN_VIRTUAL_TIME, MeterSeat
from results.errors import BoardError, MeterError
from results.plateau import least_plateau_s
from results.power import PowerTrace
from results.records import Plan

LOOK_S = 0.5
VALUES = 4.0
"""Least time, and least number of the meter's own periods, that it is read for."""

LIMIT_S = 120.0
MOST_S = Plan.plateau_s[1]


def try_meter(agent: BoardAgent, facts: BoardFacts, seat: MeterSeat) -> MeterLook:
    """Reads the meter for a moment.

    Args:
        agent: On the board.
        facts: What the board is.
        seat: Where its meter is read; an agent that was started for it is ended.

    Returns:
        What it reads and how long runs must be for it; or why there is nothing, and what mends that.
    """
    if facts.emulated.endswith("virtual-time"):
        return MeterLook(f"none: {NO_PLATEAU_IN_VIRTUAL_TIME}")
    if not seat.meter and not facts.meters:
        return _none(facts, seat)
    try:
        with agent.at_work() as client:
            if client is None:
                return MeterLook("none: only an agent on a machine can read a power meter")
            trace = _read(client, seat)
    except MeterError as error:
        why, _, remedy = error.message.partition("; ")
        return MeterLook(why, False, remedy)
    finally:
        seat.drop()
    return _judged(trace)


def _none(facts: BoardFacts, seat: MeterSeat) -> MeterLook:
    if not facts.meter_problems:
        return MeterLook(f"none: {seat.how or 'name one in the lab file'}")
    parts = [f"{name}: {problem}".partition("; ") for name, problem in facts.meter_problems.items()]
    found, remedies = ("; ".join(filter(None, column)) for column in list(zip(*parts, strict=True))[::2])
    return MeterLook(found, False, remedies)


def _read(agent: AgentClient, seat: MeterSeat) -> PowerTrace:
    reader = seat.reader(agent)
    try:
        found = start_meter(reader, seat.meter, seat.options, seed=0, limit_s=LIMIT_S)
        time.sleep(max(LOOK_S, VALUES * max(found.period_s, found.change_s)))
        return stop_meter(reader, found, number=0)[0]
    except MeterError:
        raise
    except BoardError as error:
        if reader is agent:
            raise
        raise seat.blame(error) from error


def _judged(trace: PowerTrace) -> MeterLook:
    needs_s = least_plateau_s(trace.meter)
    mean_w = math.fsum(trace.powers_w) / len(trace.powers_w)
    found = f"{trace.source} ({trace.coverage}): {mean_w:.3g} W, a value every {trace.meter.period_s:.2g} s"
    if needs_s <= MOST_S:
        return MeterLook(f"{found}; runs of {max(Plan.plateau_s[0], needs_s):.0f} s will do", True)
    remedy = f"take a faster meter: it needs runs of {needs_s:.0f} s, and {MOST_S:.0f} s is the longest"
    return MeterLook(found, False, remedy)
