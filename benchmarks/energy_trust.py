"""What energy intervals are worth: coverage, bias and refusals against known truth.

``python -m benchmarks.energy_trust [--json FILE] [--docs docs/energy.md] [--repetitions 2000]`` or ``--cost``

Traces are simulated with the faults that meters have (``tests/power_scenes.py``); the product's own ``value``
gives the interval of gross, and :func:`results.energy.energy` that of net.  Beside each coverage stand the
share of measurements that are refused (a plateau that cannot be used, a net that is not resolvable) and the
median half width, since refusals and wide intervals flatter a coverage.  Seeds are fixed.

``--cost`` runs a model on this machine instead, in pairs of sessions with and without a meter being read, and
gives the ratio of their medians with its 95 % interval; wanted: within 1 %.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from devices.agent.failures import Failure
from devices.agent.meters import rapl
from devices.agent_client import AgentClient
from devices.agent_meter import start_meter, stop_meter
from devices.local import LocalConnection
from devices.smoke import model
from results import energy
from results.plateau import of_plateau
from results.power import MeterTraits, Plateau, PowerTrace
from results.records import (
    Architecture,
    Artifact,
    Evaluation,
    Fidelity,
    Metric,
    Plan,
    Proposal,
    Target,
    Trial,
)
from results.statistics import value
from tests import sensor_trees
from tests.power_scenes import BOARD, Scene, measurement, record

TRIAL = Trial(0, Proposal(Architecture("space", ()), Fidelity(1)))
COVERAGE_WANTED = 0.90
PAIRS = 30
MOST_COST = 0.01
MARK, END_MARK = "<!-- energy_trust -->", "<!-- /energy_trust -->"

PULSED = Scene(swing=0.35 * 5 / 2)


@dataclass(frozen=True)
class Case:
    """A scene whose intervals are counted.

    Attributes:
        name: What is wrong with the meter.
        scene: The scene.
        plateaus: Number of plateaus, each of another agent.
        wander_w: Width within which the idle power differs between repetitions, so that steps fall anywhere.
    """

    name: str
    scene: Scene
    plateaus: int = 1
    wander_w: float = 0.0


CASES = (
    Case("pulses, 35 % of the power, 1500 readings", PULSED),
    Case("white noise, 10 %", Scene(noise_w=0.5)),
    Case("slow noise, 6 %, 0.1 s", Scene(slow_noise_w=0.3, slow_noise_s=0.1, active_s=20.0)),
    Case("10 readings a second", Scene(noise_w=0.3, period_s=0.1, active_s=12.0)),
    Case(
        "smart plug: 1 reading a second, 0.1 W steps",
        Scene(noise_w=0.1, period_s=1.0, step_w=0.1, active_s=120.0),
    ),
    Case("steps of 40 mW", Scene(noise_w=0.1, step_w=0.04), wander_w=0.04),
    Case("steps of 0.4 W, 1 W net", Scene(net_w=1.0, noise_w=0.15, step_w=0.4, cycle_s=0.0066), wander_w=0.4),
    Case(
        "steps of 0.4 W, 1 W net, mean of 16",
        Scene(net_w=1.0, noise_w=0.15, step_w=0.4, cycle_s=0.0066, averaged=16, active_s=12.0),
        wander_w=0.4,
    ),
    Case(
        "steps of 0.4 W, 1 W net, mean of 64",
        Scene(net_w=1.0, noise_w=0.15, step_w=0.4, cycle_s=0.0066, averaged=64, active_s=20.0),
        wander_w=0.4,
    ),
    Case("5 % of the readings lost", replace(PULSED, lost=0.05)),
    Case(
        "clock 5 s ahead, 50 ppm, ways of 2 and 6 ms",
        replace(PULSED, offset_s=5.0, skew=50e-6, round_trip_s=(0.002, 0.006)),
    ),
    Case("idle drifts 1 % a minute, 1 W net", Scene(net_w=1.0, noise_w=0.3, drift_per_min=0.01)),
    Case("5 agents that differ by 1 %", Scene(noise_w=0.1, session_spread=0.01), plateaus=5),
    Case("5 agents that differ by 5 %", Scene(noise_w=0.1, session_spread=0.05), plateaus=5),
)


def coverage(case: Case, repetitions: int) -> dict[str, Any]:
    """How often the intervals of gross and net hold the truth."""
    hits = {"gross": 0, "net": 0}
    kept = {"gross": 0, "net": 0}
    widths: list[float] = []
    errors: list[float] = []
    for k in range(repetitions):
        rng = np.random.default_rng((CASES.index(case), k))
        scene = replace(case.scene, idle_w=case.scene.idle_w + case.wander_w * rng.random())
        found = measurement(*(record(scene, rng, number) for number in range(case.plateaus)))
        evaluation = Evaluation(TRIAL, "complete", {found.target.name: found})
        gross = value(evaluation, Metric("energy", (found.target.name,)))
        known = energy.energy(found)
        net = None if known is None else known.net
        for name, interval, truth in (("gross", gross, scene.gross_j), ("net", net, scene.net_j)):
            if interval is not None:
                kept[name] += 1
                hits[name] += interval.low <= truth <= interval.high
        if gross is not None:
            widths.append((gross.high - gross.low) / 2 / gross.value)
            errors.append(gross.value / scene.gross_j - 1)
    return {
        "case": case.name,
        "coverage": _share(hits["gross"], kept["gross"]),
        "net_coverage": _share(hits["net"], kept["net"]),
        "refused": 1 - kept["gross"] / repetitions,
        "net_not_resolved": 1 - kept["net"] / repetitions,
        "half_width": float(np.median(widths)),
        "bias": float(np.mean(errors)),
        "rms": math.sqrt(float(np.mean(np.square(errors)))),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# --------------------------------------------------------------------------- the table, line by line


@dataclass(frozen=True)
class Line:
    """A line of the table: what was tried, what must hold, what came out."""

    name: str
    bound: str
    found: float
    holds: bool


def lines(rows: list[dict[str, Any]]) -> Iterator[Line]:
    """Figures that each have a bound."""
    exact = _exact()
    yield Line("constant and piecewise linear power", "<= 1e-9", exact, exact <= 1e-9)
    wrapped = _wraps()
    yield Line("RAPL wraps twice", "exact", wrapped, wrapped < 1e-9)
    yield Line("RAPL is reset", "refused", float(_reset_is_refused()), _reset_is_refused())
    pulses = rows[0]
    most = 1.2 * 0.35 / math.sqrt(PULSED.active_s / PULSED.period_s)
    yield Line("pulses, rms", f"<= {most:.4f}", pulses["rms"], pulses["rms"] <= most)
    equal = float(np.quantile(np.abs(_errors(Scene(swing=1.0, idle_w=1.0, run_s=0.0066), 400)), 0.99))
    yield Line("runs as long as the sampling period, 99 of 100", "<= 0.05", equal, equal <= 0.05)
    for n in (16, 64):
        base = Scene(cycle_s=0.0066, averaged=n, noise_w=0.05, active_s=20.0)
        bias = abs(_bias(base, 100))
        yield Line(f"sensor that averages {n}", "<= 0.005", bias, bias <= 0.005)
    drift = abs(_bias(Scene(drift_per_min=0.01, net_w=1.0, noise_w=0.02), 200, net=True))
    yield Line("idle drifts 1 % a minute, of net", "<= 0.002", drift, drift <= 0.002)
    clock = _clock_effect()
    yield Line("clock 5 s ahead, 50 ppm, unequal ways", "<= 0.001", clock, clock <= 0.001)
    lost = abs(_bias(Scene(noise_w=0.05, lost=0.05), 200))
    yield Line("5 % of the readings lost", "<= 0.005", lost, lost <= 0.005)
    flagged = _refused(Scene(noise_w=0.05, gap_s=3.0), 200)
    yield Line("a gap of 3 s is refused", "1", flagged, flagged == 1.0)
    drifting = _refused(Scene(idle_w=10.0, drift_per_min=0.3, noise_w=0.05), 200)
    yield Line("power that drifts 2 % while it runs is refused", ">= 0.95", drifting, drifting >= 0.95)
    quiet = _refused(Scene(noise_w=0.05), 2000)
    yield Line("steady power is refused", "<= 0.01", quiet, quiet <= 0.01)


def _exact() -> float:
    """Worst relative error on constant power, a ramp, and a counter."""
    times = np.arange(99.0, 133.0, 0.01)
    plateau = Plateau(0, BOARD, 1000, (100.0, 110.0), (111.0, 121.0), (122.0, 132.0))
    worst = 0.0
    for slope in (0.0, 1e-3):
        powers = 5.0 + slope * (times - 116.0)
        trace = PowerTrace(
            "known", "module", BOARD, tuple(times), tuple(powers), meter=MeterTraits(period_s=0.01)
        )
        worst = max(worst, abs(of_plateau(plateau, trace).gross_j / (5.0 * 10.0 / 1000) - 1))
    return worst


def _wraps() -> float:
    with tempfile.TemporaryDirectory() as root:
        sensor_trees.plant(Path(root), sensor_trees.rapl(energies_uj=(900_000,), range_uj=1_000_000))
        meter = rapl.open_meter(root, {})
        for reading in (50_000, 850_000, 100_000):
            _set_counter(root, reading)
            [(_, (joules,))] = meter.read()
        meter.close()
    return abs(joules - 1.2)


def _reset_is_refused() -> bool:
    with tempfile.TemporaryDirectory() as root:
        sensor_trees.plant(Path(root), sensor_trees.rapl(energies_uj=(5_000_000_000,)))
        meter = rapl.open_meter(root, {})
        _set_counter(root, 1000)
        try:
            meter.read()
        except Failure:
            return True
        finally:
            meter.close()
    return False


def _set_counter(root: str, energy_uj: int) -> None:
    sensor_trees.plant(Path(root), {f"{sensor_trees.POWERCAP}/intel-rapl:0/energy_uj": energy_uj})


def _errors(scene: Scene, count: int, *, net: bool = False) -> list[float]:
    found = []
    for k in range(count):
        figures = of_plateau(*record(scene, np.random.default_rng((77, k))))
        if not figures.problems:
            found.append(figures.net_j / scene.net_j - 1 if net else figures.gross_j / scene.gross_j - 1)
    return found


def _bias(scene: Scene, count: int, *, net: bool = False) -> float:
    return float(np.mean(_errors(scene, count, net=net)))


def _refused(scene: Scene, count: int) -> float:
    return 1 - len(_errors(scene, count)) / count


def _clock_effect() -> float:
    here = Scene(noise_w=0.01)
    there = replace(here, offset_s=5.0, skew=50e-6, round_trip_s=(0.002, 0.006))
    pairs = [
        (of_plateau(*record(s, np.random.default_rng(k))).gross_j for s in (here, there)) for k in range(50)
    ]
    return max(abs(b / a - 1) for a, b in pairs)


# --------------------------------------------------------------------------- what sampling costs


def cost(pairs: int = PAIRS) -> dict[str, float]:
    """Ratio of the median latency while a meter is read to that without, from sessions in pairs."""
    data = model("onnx")
    sha256 = hashlib.sha256(data).hexdigest()
    artifact = Artifact(sha256, sha256, sha256, "onnx", "fp32", len(data))
    plan = Plan("cost", sessions=(1, 1), session_s=0.5, warmup_s=0.1, min_runs=20, max_runs=100_000)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        sensor_trees.plant(Path(folder) / "root", sensor_trees.jetson_agx_orin())
        connection = LocalConnection("here", home=Path(folder))
        root = str(Path(folder) / "root")
        with AgentClient.start(connection, python=sys.executable, holder="benchmark", root=root) as agent:
            agent.put(sha256, data)
            logs = []
            for k in range(pairs):
                medians = {}
                for read in rng.permutation([True, False]):
                    facts = start_meter(agent, "", {}, seed=k, limit_s=60.0) if read else None
                    durations = agent.session(
                        artifact, Target("here", "onnxruntime"), plan
                    ).session.durations_s
                    if facts is not None:
                        stop_meter(agent, facts, number=0)
                    medians[bool(read)] = float(np.median(durations))
                logs.append(math.log(medians[True] / medians[False]))
        connection.close()
    mean, error = float(np.mean(logs)), float(np.std(logs, ddof=1)) / math.sqrt(pairs)
    half = float(special.stdtrit(pairs - 1, 0.975)) * error
    return {
        "ratio": math.exp(mean),
        "low": math.exp(mean - half),
        "high": math.exp(mean + half),
        "pairs": pairs,
    }


def figures(rows: list[dict[str, Any]], repetitions: int) -> dict[str, Any]:
    """Everything that is simulated; ``rows`` are the coverages of all cases."""
    covered = [row[name] for row in rows for name in ("coverage", "net_coverage") if row[name] is not None]
    return {
        "repetitions": repetitions,
        "energy_coverage": min(covered),
        "coverage": rows,
        "lines": [line.__dict__ for line in lines(rows)],
    }


def write_docs(path: Path, found: dict[str, Any]) -> None:
    """Puts the tables between the marks in a page."""
    rows = ["| meter and power | gross | net | refused | no net | half width |", "|---|---|---|---|---|---|"]
    for row in found["coverage"]:
        net = "" if row["net_coverage"] is None else f"{row['net_coverage']:.3f}"
        rows.append(
            f"| {row['case']} | {row['coverage']:.3f} | {net} | {row['refused']:.1%}"
            f" | {row['net_not_resolved']:.1%} | {row['half_width']:.1%} |"
        )
    rows += ["", "| what | wanted | found |", "|---|---|---|"]
    for line in found["lines"]:
        missed = "" if line["holds"] else ", not reached"
        rows.append(f"| {line['name']} | {line['bound']} | {line['found']:.2g}{missed} |")
    start, rest = path.read_text().split(MARK, 1)
    end = rest.partition(END_MARK)[2]
    path.write_text(f"{start}{MARK}\n\n" + "\n".join(rows) + f"\n\n{END_MARK}{end}")


def _print_cost(path: Path | None) -> int:
    found = cost()
    print(json.dumps({"sampling_cost": found}))
    if path is not None:
        path.write_text(json.dumps({"sampling_cost": found}, indent=2) + "\n")
    return 0 if abs(found["ratio"] - 1) <= MOST_COST else 1


def main() -> int:
    """Prints the tables; gives 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    if args.cost:
        return _print_cost(args.json)
    found = figures([coverage(case, args.repetitions) for case in CASES], args.repetitions)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    if args.docs:
        write_docs(args.docs, found)
    for row in found["coverage"]:
        net = "-" if row["net_coverage"] is None else f"{row['net_coverage']:.3f}"
        print(
            f"{row['case']:48s} gross {row['coverage']:.3f} net {net} refused {row['refused']:.3f}"
            f" net unresolved {row['net_not_resolved']:.3f} half width {row['half_width']:.4f}"
        )
    for line in found["lines"]:
        missed = "" if line["holds"] else "NOT REACHED"
        print(f"{line['name']:48s} {line['bound']:12s} {line['found']:.3g} {missed}")
    print(json.dumps({"energy_coverage": found["energy_coverage"]}))
    reached = found["energy_coverage"] >= COVERAGE_WANTED and all(line["holds"] for line in found["lines"])
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
