"""How often nightly verdicts are wrong, and what they find: simulated series with known truth.

``python -m benchmarks.nightly [--json FILE]``

A night's figure of a series is drawn as a night's measurement would give it: an effect of the night on all
files alike (1.5 %), one of the night on this file (0.4 %), sessions (0.5 %) and runs within them (3 %), five
sessions of 100 runs of the file and of the reference; the figure and its ratio to the reference are what
:mod:`results.series` sees.  A second look in the same night shares the night's effects.  ``heavy_tailed``
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

from results.series import BAD, Point, Series, Verdict, judge

SERIES, NIGHTS, HISTORY = 100, 60, 14
CHANGED = 40
"""Simulated fleets with a changed series, per fleet without one."""

NIGHT, OWN, SESSION, WITHIN = 0.015, 0.004, 0.005, 0.03
SESSIONS, RUNS = 5, 100
MEDIAN_ERROR = 1.2533 / math.sqrt(RUNS)
"""Standard error of a median of ``RUNS`` normal runs, in their standard deviations."""

OLD, NEW = "old", "new"
UPGRADED, UPGRADED_SERIES = 10, 10
"""Nights after an upgrade, in which the environment's own history is not there yet; series of a fleet."""


@dataclass
class Fleet:
    """All series, one night after the other."""

    rng: np.random.Generator
    tail: bool = False
    environment: str = OLD
    size: int = SERIES

    def __post_init__(self) -> None:
        self.series = {f"s{i}": Series() for i in range(self.size)}

    def remember(self, nights: int) -> None:
        """Nights before anything is looked at."""
        for _ in range(nights):
            common = self.rng.normal(0, NIGHT)
            for series, own in zip(self.series.values(), self._own(self.size), strict=True):
                series.enter(self.environment)
                series.segments[-1].append(self._point(common, own))

    def night(self, shifts: dict[str, float], upgrade: float = 0.0) -> dict[str, Verdict]:
        """What a night says; ``shifts`` are true changes since the start, ``upgrade`` is that of all files
        and of the reference."""
        common, own = self.rng.normal(0, NIGHT) + upgrade, self._own(self.size)
        truth = {name: shifts.get(name, 0.0) + own[i] for i, name in enumerate(self.series)}
        tonight = {name: self._point(common, z) for name, z in truth.items()}
        again = {name: self._point(common, z) for name, z in truth.items()}
        for series in self.series.values():
            series.enter(self.environment)
        return judge(self.series, tonight, again)

    def _own(self, n: int) -> Any:
        if self.tail:
            return self.rng.standard_t(3, n) / math.sqrt(3) * OWN
        return self.rng.normal(0, OWN, n)

    def _point(self, common: float, own: float) -> Point:
        """Logarithms of the figure and of its ratio to the reference, by the means over sessions."""
        spread = math.hypot(SESSION, WITHIN * MEDIAN_ERROR) / math.sqrt(SESSIONS)
        model, reference = self.rng.normal(common, spread, 2)
        return Point("", self.environment, float(model + own), float(model + own - reference))


def false_alarms(seed: int, fleets: int, *, tail: bool) -> dict[str, float]:
    """Shares of series-nights without any change, by what is said of them wrongly."""
    counts = dict.fromkeys(("candidate", "confirmed", "improvement", "moved"), 0)
    nights = 0
    for number in range(fleets):
        fleet = Fleet(np.random.default_rng((seed, number)), tail)
        for _ in range(NIGHTS):
            for verdict in fleet.night({}).values():
                nights += verdict.outcome != "learning"
                counts["candidate"] += is_candidate(verdict)
                counts["confirmed"] += verdict.outcome in BAD
                counts["improvement"] += verdict.outcome == "improvement"
                counts["moved"] += verdict.has_moved
    return {name: count / nights for name, count in counts.items()}


def is_candidate(verdict: Verdict) -> bool:
    """Whether a night looked worse, at first."""
    looked_worse = verdict.outcome == "unconfirmed" and verdict.finding.shift > 0 and not verdict.since
    return looked_worse or verdict.outcome in BAD


def found(seed: int, fleets: int, change: Callable[[int], float], within: int) -> dict[str, float]:
    """Shares of fleets whose one changed series, after 14 nights of history, is told as what it is within
    some nights; one among 100 is the hardest case for a rule over all series."""
    counts = dict.fromkeys(("candidate", "confirmed", "improvement", "every_night"), 0)
    for number in range(fleets):
        fleet = Fleet(np.random.default_rng((seed, number, 1)))
        fleet.remember(HISTORY)
        nights = [fleet.night({"s0": change(night)})["s0"] for night in range(within)]
        bad = [verdict.outcome in BAD for verdict in nights]
        counts["candidate"] += any(is_candidate(verdict) for verdict in nights)
        counts["confirmed"] += any(bad)
        counts["improvement"] += any(verdict.outcome == "improvement" for verdict in nights)
        counts["every_night"] += any(bad) and all(bad[bad.index(True) :])
    return {name: count / fleets for name, count in counts.items()}


def upgraded(seed: int, fleets: int, share: float, *, within: int) -> float:
    """Share of series that are told as regressions within some nights after an upgrade that slows all files
    and the reference down.  A night's luck is that of all series alike: many small fleets."""
    told = 0
    for number in range(fleets):
        fleet = Fleet(np.random.default_rng((seed, number, 2)), size=UPGRADED_SERIES)
        fleet.remember(HISTORY)
        fleet.environment = NEW
        nights = [fleet.night({}, upgrade=math.log1p(share)) for _ in range(within)]
        told += sum(any(night[name].outcome in BAD for night in nights) for name in fleet.series)
    return told / fleets / UPGRADED_SERIES


def lost(seed: int, fleets: int, share: float) -> float:
    """Share of fleets in which an improvement of ten nights that is lost again is told the same night."""
    told = 0
    for number in range(fleets):
        fleet = Fleet(np.random.default_rng((seed, number, 3)))
        fleet.remember(HISTORY)
        for _ in range(10):
            fleet.night({"s0": math.log1p(-share)})
        told += fleet.night({})["s0"].outcome in BAD
    return told / fleets


def run(seed: int, fleets: int) -> dict[str, Any]:
    """All figures."""

    def step(share: float) -> Callable[[int], float]:
        return lambda night: math.log1p(share)

    null, heavy = false_alarms(seed, fleets, tail=False), false_alarms(seed, fleets, tail=True)
    rise, fall = (
        found(
            seed,
            2 * fleets,
            lambda night, sign=sign: math.log1p(sign * 0.001 * (night + 1)),
            NIGHTS - HISTORY,
        )
        for sign in (1, -1)
    )
    few = CHANGED * fleets
    steps = {share: found(seed, few, step(share), 1) for share in (0.02, 0.03, 0.05, -0.03, -0.05)}
    return {
        "seed": seed,
        "series": SERIES,
        "nights": NIGHTS,
        "fleets": fleets,
        "false_alarm_candidate": null["candidate"],
        "false_alarm_confirmed": null["confirmed"],
        "false_alarm_confirmed_heavy_tailed": heavy["confirmed"],
        "false_improvement": null["improvement"],
        "false_improvement_heavy_tailed": heavy["improvement"],
        "falsely_moved_heavy_tailed": heavy["moved"],
        "found_2_percent": steps[0.02]["candidate"],
        "found_3_percent": steps[0.03]["candidate"],
        "found_3_percent_confirmed": steps[0.03]["confirmed"],
        "found_5_percent": steps[0.05]["candidate"],
        "found_5_percent_confirmed": steps[0.05]["confirmed"],
        "told_every_night_3_percent": found(seed, 4 * fleets, step(0.03), 10)["every_night"],
        "found_creeping_0.1_percent_a_night_in_46": rise["confirmed"],
        "found_creeping_down_0.1_percent_a_night_in_46": fall["improvement"],
        "improvement_3_percent": steps[-0.03]["improvement"],
        "improvement_5_percent": steps[-0.05]["improvement"],
        "lost_improvement_3_percent": lost(seed, 4 * fleets, 0.03),
        "lost_improvement_5_percent": lost(seed, 4 * fleets, 0.05),
        "upgrade_false_alarm": upgraded(seed, 100 * fleets, 0.0, within=UPGRADED),
        "upgrade_5_percent": upgraded(seed, 20 * fleets, 0.05, within=1),
        "upgrade_5_percent_in_10": upgraded(seed, 20 * fleets, 0.05, within=UPGRADED),
        "upgrade_30_percent": upgraded(seed, 20 * fleets, 0.3, within=1),
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
        print(f"{name:46} {figure:.4g}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
