"""How often nightly verdicts are wrong, and what they find: simulated series with known truth.

``python -m benchmarks.nightly [--json FILE]``

A night's figure of a series is drawn as a night's measurement would give it: an effect of the night on all
files alike (1.5 %), one of the night on this file (0.4 %), sessions (0.5 %) and runs within them (3 %), five
sessions of 100 runs of the file and of the reference; the ratio of the two is what
:mod:`results.regression` sees.  A second look in the same night shares the night's effects.  ``heavy_tailed``
draws the file's effect from Student's t with 3 degrees of freedom and the same standard deviation.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from results.regression import Finding, Watch, confirmed, examine

SERIES, NIGHTS, HISTORY = 100, 60, 14
CHANGED = 40
"""Simulated fleets with a changed series, per fleet without one."""

NIGHT, OWN, SESSION, WITHIN = 0.015, 0.004, 0.005, 0.03
SESSIONS, RUNS = 5, 100
MEDIAN_ERROR = 1.2533 / math.sqrt(RUNS)
"""Standard error of a median of ``RUNS`` normal runs, in their standard deviations."""


@dataclass
class Fleet:
    """All series, one night after the other."""

    rng: np.random.Generator
    tail: bool = False

    def __post_init__(self) -> None:
        self.watches = {f"s{i}": Watch() for i in range(SERIES)}

    def remember(self, nights: int) -> None:
        """Nights before anything is looked at."""
        for _ in range(nights):
            common = self.rng.normal(0, NIGHT)
            for watch, own in zip(self.watches.values(), self._own(SERIES), strict=True):
                watch.history = watch.history.add(self._figure(common, own))

    def night(self, shifts: dict[str, float]) -> tuple[dict[str, Finding], set[str]]:
        """Findings of a night and the confirmed regressions; ``shifts`` are true changes since the start."""
        common, own = self.rng.normal(0, NIGHT), self._own(SERIES)
        names = list(self.watches)
        truth = {name: shifts.get(name, 0.0) + own[i] for i, name in enumerate(names)}
        tonight = {name: self._figure(common, z) for name, z in truth.items()}
        found = examine(self.watches, tonight)
        again = {n: self._figure(common, truth[n]) for n, f in found.items() if f.state == "candidate"}
        bad = confirmed(self.watches, tonight, again)
        bad |= {name for name, finding in found.items() if finding.state == "slow change"}
        for name, z in tonight.items():
            if name not in bad:
                self.watches[name].history = self.watches[name].history.add(z)
        return found, bad

    def _own(self, n: int) -> Any:
        if self.tail:
            return self.rng.standard_t(3, n) / math.sqrt(3) * OWN
        return self.rng.normal(0, OWN, n)

    def _figure(self, common: float, own: float) -> float:
        """Logarithm of the ratio to the reference, as the means over sessions give it."""
        spread = math.hypot(SESSION, WITHIN * MEDIAN_ERROR) / math.sqrt(SESSIONS)
        model, reference = self.rng.normal(common, spread, 2)
        return float(model + own - reference)


def false_alarms(seed: int, fleets: int, *, tail: bool) -> dict[str, float]:
    """Shares of series-nights without any change that are a candidate, and confirmed."""
    candidates = alarms = nights = 0
    for number in range(fleets):
        fleet = Fleet(np.random.default_rng((seed, number)), tail)
        for _ in range(NIGHTS):
            found, bad = fleet.night({})
            judged = [f for f in found.values() if f.state != "learning"]
            nights += len(judged)
            candidates += sum(f.state != "fine" for f in judged)
            alarms += len(bad)
    return {"candidate": candidates / nights, "confirmed": alarms / nights}


def found(seed: int, fleets: int, change: Callable[[int], float], within: int) -> dict[str, float]:
    """Share of fleets whose one changed series, after 14 nights of history, is a candidate, and is confirmed,
    within some nights; one among 100 is the hardest case for a rule over all series."""
    first = last = 0
    for number in range(fleets):
        fleet = Fleet(np.random.default_rng((seed, number, 1)))
        fleet.remember(HISTORY)
        nights = [fleet.night({"s0": change(night)}) for night in range(within)]
        first += any(findings["s0"].state in ("candidate", "slow change") for findings, _ in nights)
        last += any("s0" in bad for _, bad in nights)
    return {"candidate": first / fleets, "confirmed": last / fleets}


def run(seed: int, fleets: int) -> dict[str, Any]:
    """All figures."""

    def step(share: float) -> Callable[[int], float]:
        return lambda night: math.log1p(share)

    null, heavy = false_alarms(seed, fleets, tail=False), false_alarms(seed, fleets, tail=True)
    creep = found(seed, 2 * fleets, lambda night: math.log1p(0.001 * (night + 1)), NIGHTS - HISTORY)
    steps = {share: found(seed, CHANGED * fleets, step(share), 1) for share in (0.02, 0.03, 0.05)}
    return {
        "seed": seed,
        "series": SERIES,
        "nights": NIGHTS,
        "fleets": fleets,
        "false_alarm_candidate": null["candidate"],
        "false_alarm_confirmed": null["confirmed"],
        "false_alarm_confirmed_heavy_tailed": heavy["confirmed"],
        "found_2_percent": steps[0.02]["candidate"],
        "found_3_percent": steps[0.03]["candidate"],
        "found_3_percent_confirmed": steps[0.03]["confirmed"],
        "found_5_percent": steps[0.05]["candidate"],
        "found_5_percent_confirmed": steps[0.05]["confirmed"],
        "found_creeping_0.1_percent_a_night_in_46": creep["confirmed"],
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="How often nightly verdicts are wrong, and what they find.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fleets", type=int, default=10, help="repetitions of 100 series x 60 nights")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    figures = run(args.seed, args.fleets)
    for name, figure in figures.items():
        print(f"{name:42} {figure:.4g}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
