"""Records for the tests of the results package, made from few arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.codec import to_json
from results.records import (
    Architecture,
    Artifact,
    Conditions,
    Environment,
    Evaluation,
    Fidelity,
    Limit,
    Measurement,
    Metric,
    Plan,
    Problem,
    Proposal,
    RanOn,
    Score,
    Session,
    Target,
    Trial,
)
from results.store import Run, Store

PI = Target("pi5", "tflite")
HOST = Target("desk", "onnxruntime", options=(("threads", 2),))
ENVIRONMENT = Environment((("cpus", "4"), ("governor", "performance"), ("model", "Raspberry Pi 5 Model B")))


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


CONFIRM = Plan("confirm", sessions=(10, 10), agents=5)


def config(targets: Sequence[Target], limits: Sequence[Limit]) -> dict[str, Any]:
    """The configuration of a run with these targets and limits."""
    names = tuple(t.name for t in targets)
    problem = Problem((Metric("accuracy", maximise=True), Metric("latency_p90", names)), tuple(limits))
    return {
        "study": {"name": "demo", "trials": 40},
        "targets": to_json(tuple(targets)),
        "problem": to_json(problem),
        "task": {
            "name": "digits_in_photos",
            "metric": "accuracy",
            "maximise": True,
            "credits": "MNIST digits (LeCun, Cortes, Burges) composed on two photographs of scikit-learn.",
        },
        "seed": 3,
        "fidelity": to_json(Fidelity(10)),
        "space": {"name": "chain", "fingerprint": "space"},
        "strategy": {"name": "regularized_evolution"},
        "version": "0.1.0",
        "host": "desk",
    }


def ask(run: Run, number: int, **options: Any) -> None:
    """Appends that a trial was asked for, and its network."""
    trial = Trial(number, Proposal(Architecture("space", (number,)), Fidelity(10)))
    run.append("asked", str(number), {"trial": to_json(trial), "options": options or {"width": number}})
    costs = {"macs": 1e6 + number, "parameters": 2e4 + number, "activation_bytes": 5e4}
    sizes = {"size_bytes_onnx": 90_000.0, "size_bytes_tflite": 88_000.0}
    run.append("built", str(number), {"network": costs | sizes, "graph": f"graph{number}"})


def measured(run: Run, number: int, measurement: Measurement, *, kind: str = "measured") -> None:
    """Appends a measurement of a trial."""
    tail = f"/{measurement.plan.name}/0" if kind == "measured" else ""
    body = {"measurement": to_json(measurement), "wall_s": 1.0}
    run.append(kind, f"{number}/{measurement.target.name}{tail}", body)


def trained(run: Run, number: int, accuracy: float, examples: int = 1000) -> None:
    """Appends that a trial was trained to an accuracy."""
    body = {
        "accuracy": {"fp32": to_json(Score(accuracy, examples))},
        "learning_curve": [accuracy / 2, accuracy],
        "checkpoint": "cd" * 32,
        "training_s": 12.5,
        "wall_s": 13.0,
    }
    run.append("trained", str(number), body)


def told(run: Run, number: int, state: str = "complete", error: str | None = None) -> None:
    """Appends the final state of a trial."""
    run.append("told", str(number), {"state": state, "error": error})


def fill(store: Store, name: str = "demo", *, trials: int = 40, seed: int = 1) -> Run:
    """A whole run on two targets with limits that about half of the trials break, its front confirmed."""
    rng = np.random.default_rng(seed)
    limits = [
        Limit(Metric("latency_p90", (PI.name,)), 0.008),
        Limit(Metric("latency_p90", (HOST.name,)), 0.002),
    ]
    run = store.begin(name, config((PI, HOST), limits))
    plan = Plan("screen", spread=0.012, spread_sessions=5)
    for number in range(trials):
        cost = float(np.exp(rng.normal(np.log(0.007), 0.5)))
        ask(run, number, depth=int(1 + cost * 400), width=int(rng.choice([8, 16, 24, 32])), block="separable")
        if number % 13 == 12:
            told(run, number, "failed", "ab12: ExportError: logits differ by up to 0.31 from PyTorch's")
            continue
        pi = simulated(rng, cost, sessions=3, plan=plan)
        measured(run, number, pi)
        if cost > 0.0085:
            told(run, number, "infeasible")
            continue
        measured(run, number, simulated(rng, cost / 4.2, sessions=3, plan=plan, target=HOST))
        accuracy = float(np.clip(0.97 - 0.12 * np.exp(-cost / 0.002) + rng.normal(0, 0.012), 0, 1))
        trained(run, number, round(accuracy, 3))
        told(run, number)
    return run


def confirm(run: Run, number: int, median_s: float, *, target: Target = PI, seed: int = 7) -> None:
    """Appends a confirmed measurement of a trial, and its score on the test split."""
    rng = np.random.default_rng((seed, number))
    rows = []
    for agent in range(5):
        effect = rng.normal(0.0, 0.004)
        for _ in range(2):
            row = median_s * np.exp(effect + rng.normal(0.0, 0.004) + rng.normal(0.0, 0.03, 100))
            rows.append(make_session(row, agent=agent, started_at=1_700_003_600.0))
    artifact = Artifact(
        f"{number:02d}" * 32, f"graph{number}", "trained", target.file_format, "fp32", 123_460
    )
    measured(
        run, number, make_measurement(rows, target=target, plan=CONFIRM, artifact=artifact), kind="confirmed"
    )
    run.append("tested", str(number), {"accuracy": {"fp32": to_json(Score(0.93, 2000))}})
