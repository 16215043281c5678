"""A session for energy: idle, many runs back to back for some time, idle again.

Nothing is read here but the clock: the meter, wherever it is, is read by another process, and the host
joins the two.  The file is loaded and warmed up before the first idle part, so that both idle parts are of
the same process.
"""

from __future__ import annotations

import gc
import os
import time
from typing import Any, Callable, Dict, List, Mapping, Tuple

from . import arrays, conditions, processes
from .metering import now_ns
from .session import BATCH_NS, SHORT_RUN_NS, Emit

LEAST_WARMUP_RUNS = 3
LOOK_NS = 1_000_000_000
"""How often throttling is looked for during the runs: what the firmware says may be gone after them."""


def measure(
    open_model: Callable[[], Any], sensors: conditions.Sensors, request: Mapping[str, Any], emit: Emit
) -> None:
    """Loads a file, and emits when it was idle, when it ran and how often.

    Args:
        open_model: Loads the file.
        sensors: For the conditions.
        request: ``plan`` (``warmup_s``, ``idle_s``, ``settle_s``, ``active_s``, ``min_runs``), ``seed``,
            ``threads``, ``received_ns``.
        emit: Sends a message.
    """
    plan = request["plan"]
    processes.reset_peak_memory()
    model = open_model()
    model.set_inputs(arrays.random_arrays(model.inputs, request["seed"]))
    cold, _ = _run(model.invoke, 1, (0, 1), lambda: None)
    elapsed_ns = time.monotonic_ns() - request["received_ns"]
    emit({"loaded": {"elapsed_s": elapsed_ns / 1e9, "cold_s": (cold[1] - cold[0]) / 1e9}}, b"")
    gc.disable()
    warm, runs = _run(model.invoke, 1, (int(plan["warmup_s"] * 1e9), LEAST_WARMUP_RUNS), lambda: None)
    typical_ns = max(1, (warm[1] - warm[0]) // runs)
    batch = 1 if typical_ns >= SHORT_RUN_NS else -(-BATCH_NS // typical_ns)
    cpus = sorted(os.sched_getaffinity(0))
    before = sensors.read(cpus)
    idle_before = _idle(plan)
    _run(model.invoke, batch, (int(plan["settle_s"] * 1e9), 1), lambda: None)
    looks: List[conditions.Reading] = []
    active, runs = _run(
        model.invoke,
        batch,
        (int(plan["active_s"] * 1e9), plan["min_runs"]),
        lambda: looks.append(sensors.read(cpus)),
    )
    looks.append(sensors.read(cpus))
    idle_after = _idle(plan)
    emit(
        {
            "result": {
                "runs": runs,
                "idle_before_ns": list(idle_before),
                "active_ns": list(active),
                "idle_after_ns": list(idle_after),
                "conditions": _worst(before, looks, (active[1] - idle_before[0]) / 1e9),
                "provider": model.provider,
                "threads": request["threads"],
                "cpus": cpus,
            }
        },
        b"",
    )


def _idle(plan: Mapping[str, Any]) -> Tuple[int, int]:
    """Begin and end of a time in which nothing is done, after it has settled."""
    time.sleep(plan["settle_s"])
    started_ns = now_ns()
    time.sleep(plan["idle_s"])
    return started_ns, now_ns()


def _run(
    invoke: Callable[[], Any], batch: int, least: Tuple[int, int], look: Callable[[], None]
) -> Tuple[Tuple[int, int], int]:
    """Begin and end of runs back to back, and how many, for at least ``least`` (time [ns], number)."""
    least_ns, least_runs = least
    count = range(batch)
    runs = 0
    started_ns = ended_ns = now_ns()
    look_ns = started_ns + LOOK_NS
    while runs < least_runs or ended_ns - started_ns < least_ns:
        for _ in count:
            invoke()
        runs += batch
        ended_ns = now_ns()
        if ended_ns >= look_ns:
            look()
            look_ns = ended_ns + LOOK_NS
    return (started_ns, ended_ns), runs


def _worst(before: conditions.Reading, looks: List[conditions.Reading], wall_s: float) -> Dict[str, Any]:
    """Conditions from before to the end, with the most throttling that any look saw."""
    found = [conditions.between(before, look, wall_s) for look in looks]
    events = [one["throttle_events"] for one in found if one["throttle_events"] is not None]
    return dict(found[-1], throttle_events=max(events) if events else None)
