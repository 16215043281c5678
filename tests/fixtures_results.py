"""Records for the tests of the results package, made from few arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.records import (
    Architecture,
    Artifact,
    Conditions,
    Environment,
    Evaluation,
    Fidelity,
    Measurement,
    Plan,
    Proposal,
    RanOn,
    Score,
    Session,
    Target,
    Trial,
)

PI = Target("pi5", "tflite")
HOST = Target("desk", "onnxruntime", options=(("threads", 2),))
ENVIRONMENT = Environment((("board", "Raspberry Pi 5 Model B"), ("cpus", "4"), ("governor", "performance")))


def make_session(durations_s: Sequence[float], **changes: Any) -> Session:
    """A session with these runs and nothing remarkable about it."""
    values: dict[str, Any] = {
        "role": "model",
        "agent": 0,
        "load_s": 0.01,
        "cold_s": 0.02,
        "warmup_runs": 10,
        "durations_s": tuple(float(d) for d in durations_s),
        "peak_memory_bytes": 30_000_000,
        "conditions": Conditions(temperature_before_c=45.0, temperature_after_c=48.0),
        "started_at": 1_700_000_000.0,
    }
    return Session(**(values | changes))


def make_measurement(
    sessions: Sequence[Session], *, target: Target = PI, plan: Plan | None = None, **changes: Any
) -> Measurement:
    """A measurement of these sessions on a Raspberry Pi."""
    values: dict[str, Any] = {
        "artifact": Artifact("ab" * 32, "graph", "untrained", target.file_format, target.precision, 123_456),
        "target": target,
        "plan": plan or Plan("search"),
        "environment": ENVIRONMENT,
        "sessions": tuple(sessions),
        "ran_on": RanOn(f"{target.runtime} (real)", "2.1.0", 1, "CPU", (3,)),
    }
    return Measurement(**(values | changes))


def simulated(
    rng: np.random.Generator, median_s: float, *, sessions: int = 5, spread: float = 0.01, **changes: Any
) -> Measurement:
    """Log-normal runs (3 % within a session) around session effects of standard deviation ``spread``."""
    rows = []
    for effect in rng.normal(0.0, spread, sessions):
        rows.append(make_session(median_s * np.exp(effect + rng.normal(0.0, 0.03, 100))))
    return make_measurement(rows, **changes)


def make_evaluation(
    number: int = 0,
    *,
    measurements: Mapping[str, Measurement] | None = None,
    accuracy: Mapping[str, Score] | None = None,
    **changes: Any,
) -> Evaluation:
    """A complete evaluation of a trial of a one-decision space."""
    trial = Trial(number, Proposal(Architecture("space", (number,)), Fidelity(10)))
    values: dict[str, Any] = {
        "state": "complete",
        "measurements": measurements or {},
        "accuracy": accuracy if accuracy is not None else {"fp32": Score(0.9, 1000)},
        "network": {
            "macs": 1e6,
            "parameters": 2e4,
            "size_bytes_onnx": 90_000.0,
            "size_bytes_tflite": 88_000.0,
        },
    }
    return Evaluation(trial, **(values | changes))
