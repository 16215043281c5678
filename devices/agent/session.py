"""What one session does, in a process of its own: load a file, run it, time it."""

from __future__ import annotations

import gc
import os
import time
from typing import Any, Callable, List, Mapping, Sequence, Tuple

from . import arrays, conditions, processes
from .failures import Failure

Emit = Callable[[Mapping[str, Any], bytes], None]

COOLING_STEP_S = 0.5
LEAST_WARMUP_RUNS = 3
SHORT_RUN_NS = 100_000
BATCH_NS = 1_000_000
"""Runs shorter than SHORT_RUN_NS are timed in batches of BATCH_NS: the clock takes 0.1 us itself."""


def measure(
    open_model: Callable[[], Any], sensors: conditions.Sensors, request: Mapping[str, Any], emit: Emit
) -> None:
    """Waits until the board is cool, loads a file, runs it cold, warms it up, times it, emits what came out.

    A first message ``loaded`` tells the host how long that took, so that it can tell how long to wait.

    Args:
        open_model: Loads the file.
        sensors: For the conditions.
        request: ``plan`` (``warmup_s``, ``session_s``, ``min_runs``, ``max_runs``, ``cooldown_s``,
            ``start_below_c``), ``seed``, ``threads``, ``received_ns``.
        emit: Sends a message.
    """
    plan = request["plan"]
    _cool_down(sensors, plan)
    processes.reset_peak_memory()
    model, load_ns = _timed(open_model)
    model.set_inputs(arrays.random_arrays(model.inputs, request["seed"]))
    _, cold_ns = _timed(model.invoke)
    elapsed_ns = time.monotonic_ns() - request["received_ns"]
    emit({"loaded": {"elapsed_s": elapsed_ns / 1e9, "cold_s": cold_ns / 1e9}}, b"")

    gc.disable()  # nothing below makes cycles, and a collection would fall into somebody's run
    warm_ns = _warm_up(model.invoke, int(plan["warmup_s"] * 1e9))
    runs_per_sample = _runs_per_sample(warm_ns)
    cpus = sorted(os.sched_getaffinity(0))
    before = sensors.read(cpus)
    warm_ns.append(_timed(model.invoke)[1])  # once more: the reading has taken the caches
    started_ns = time.perf_counter_ns()
    samples_ns = _time(model.invoke, runs_per_sample, plan)
    wall_ns = time.perf_counter_ns() - started_ns
    after = sensors.read(cpus)
    emit(
        {
            "result": {
                "load_s": load_ns / 1e9,
                "cold_s": cold_ns / 1e9,
                "warmup_runs": len(warm_ns),
                "warmup_s": sum(warm_ns) / 1e9,
                "runs_per_sample": runs_per_sample,
                "samples_ns": samples_ns,
                "peak_memory_bytes": processes.peak_memory_bytes(),
                "conditions": conditions.between(before, after, wall_ns / 1e9),
                "inputs": [dict(tensor._asdict()) for tensor in model.inputs],
                "provider": model.provider,
                "threads": request["threads"],
                "cpus": cpus,
            }
        },
        b"",
    )


def answer(open_model: Callable[[], Any], request: Mapping[str, Any], payload: bytes, emit: Emit) -> None:
    """Runs a file on given inputs and emits its outputs.

    Inputs may hold several batches of what the file takes; outputs are then joined in the same way.

    Args:
        open_model: Loads the file.
        request: ``arrays``: descriptions of the inputs, in the file's order.
        payload: Their values.
        emit: Sends a message.
    """
    given = arrays.unpack(request["arrays"], payload)
    model = open_model()
    answers: List[Sequence[Any]] = []
    for batch in _batches(model.inputs, given):
        model.set_inputs(batch)
        model.invoke()
        answers.append(model.outputs())
    described, values = arrays.pack(_join(answers))
    emit({"result": {"arrays": described}}, values)


def _timed(action: Callable[[], Any]) -> Tuple[Any, int]:
    started_ns = time.perf_counter_ns()
    result = action()
    return result, time.perf_counter_ns() - started_ns


def _cool_down(sensors: conditions.Sensors, plan: Mapping[str, Any]) -> None:
    """Waits until the board is below the plan's temperature, or the plan's time is up."""
    below_c, end_ns = plan.get("start_below_c"), time.monotonic_ns() + int(plan.get("cooldown_s", 0) * 1e9)
    while below_c is not None and time.monotonic_ns() < end_ns:
        temperature_c = sensors.temperature_c()
        if temperature_c is None or temperature_c < below_c:
            return
        time.sleep(COOLING_STEP_S)


def _warm_up(invoke: Callable[[], Any], warmup_ns: int) -> List[int]:
    durations_ns: List[int] = []
    end_ns = time.perf_counter_ns() + warmup_ns
    while len(durations_ns) < LEAST_WARMUP_RUNS or time.perf_counter_ns() < end_ns:
        durations_ns.append(_timed(invoke)[1])
    return durations_ns


def _runs_per_sample(warm_ns: Sequence[int]) -> int:
    later = sorted(warm_ns[len(warm_ns) // 2 :])
    typical_ns = max(1, later[len(later) // 2])
    return 1 if typical_ns >= SHORT_RUN_NS else -(-BATCH_NS // typical_ns)


def _time(invoke: Callable[[], Any], runs_per_sample: int, plan: Mapping[str, Any]) -> List[int]:
    """Durations of samples of ``runs_per_sample`` runs each [ns], as many as the plan allows."""
    session_ns, least, most = int(plan["session_s"] * 1e9), plan["min_runs"], plan["max_runs"]
    clock = time.perf_counter_ns
    samples_ns: List[int] = []
    total_ns = 0
    runs = range(runs_per_sample)
    while len(samples_ns) < most and (len(samples_ns) < least or total_ns < session_ns):
        started_ns = clock()
        for _ in runs:
            invoke()
        sample_ns = clock() - started_ns
        samples_ns.append(sample_ns)
        total_ns += sample_ns
    return samples_ns


def _batches(declared: Sequence[arrays.Tensor], given: Sequence[Any]) -> List[List[Any]]:
    """The inputs cut along their first axis into what the file takes at once."""
    if len(declared) != len(given):
        raise Failure("refused", "the file has %d inputs, got %d" % (len(declared), len(given)))
    counts = {_count(tensor, array) for tensor, array in zip(declared, given)}
    if len(counts) != 1:
        raise Failure("refused", "the inputs hold different numbers of batches: %s" % sorted(counts))
    count = counts.pop()
    if count == 1:
        return [list(given)]
    steps = [int(tensor.shape[0] or 1) for tensor in declared]
    return [[array[i * n : (i + 1) * n] for array, n in zip(given, steps)] for i in range(count)]


def _count(tensor: arrays.Tensor, array: Any) -> int:
    shape, wanted = list(array.shape), list(tensor.shape)
    if array.dtype.name == tensor.dtype:
        if shape == wanted:
            return 1
        if shape[1:] == wanted[1:] and wanted and wanted[0] and shape[0] and shape[0] % wanted[0] == 0:
            return int(shape[0] // wanted[0])
    message = "input %s takes %s of %s, got %s of %s"
    raise Failure("refused", message % (tensor.name, tensor.dtype, wanted, array.dtype.name, shape))


def _join(answers: Sequence[Sequence[Any]]) -> List[Any]:
    if len(answers) == 1:
        return list(answers[0])
    import numpy

    return [numpy.concatenate(parts) for parts in zip(*answers)]
