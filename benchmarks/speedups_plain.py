"""What the plain search's own trainings say: whether they have levelled off, how curves are foretold.

See :mod:`benchmarks.speedups`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import speedups_cache as cache
from benchmarks.speedups_search import EXAMPLES, Table
from results.promise import log_odds
from results.rank_correlation import kendall
from results.records import Score
from search.learning_curve import CurvePredictor
from search.promotion import moved

HALF, TWICE = cache.EPOCHS // 2, 2 * cache.EPOCHS


def calibration(table: Table) -> dict[str, Any]:
    """Share of 90 % intervals that cover the end of a curve, each predicted from all others."""
    curves = [full.curve for full in table.fulls.values()]
    found = {}
    for epoch in (8, 12, 16, 24, 32, 40):
        covered, errors = [], []
        for i, curve in enumerate(curves):
            predictor = CurvePredictor([other for j, other in enumerate(curves) if j != i])
            mixture = predictor.predict(curve[:epoch])
            if mixture is not None:
                interval = mixture.interval(0.9)
                covered.append(interval.low <= curve[-1] <= interval.high)
                errors.append(abs(interval.value - curve[-1]))
        if covered:
            found[f"epoch_{epoch}"] = {
                "coverage_90": statistics.fmean(covered),
                "mean_error": statistics.fmean(errors),
            }
    return found


def early_epochs(table: Table) -> dict[str, Any]:
    """Kendall's tau between an epoch of the full trainings and their end."""
    curves = [full.curve for full in table.fulls.values()]
    taus = {e: kendall([c[e - 1] for c in curves], [c[-1] for c in curves]) for e in (3, 8, 16, 32)}
    return {f"epoch_{e}": None if tau is None else asdict(tau) for e, tau in taus.items()}


# --------------------------------------------------------------------------- levelled off


def levelled(table: Table) -> dict[str, Any]:
    """What twice as many epochs would change, told by those networks that had them.

    ``noise`` is what two trainings of one network with other seeds differ by: root mean square on the scale
    of log odds.  A network has levelled off where its two validation accuracies differ by no more than what
    such a difference is below in 95 % of the cases.  ``volume_ratio`` is the hypervolume of the front after
    twice as many epochs over that after all, both chosen by validation and scored on test data; the gain of
    a network that did not have them is modelled, by a line over the logarithm of its MACs.
    ``volume_ratio_half`` is the same of all after half as many epochs, where every network had them.
    """
    longer = {c: full for (c, seed), full in cache.fulls(TWICE).items() if seed == 0 and c in table.fulls}
    noise, pairs = between_seeds(table)
    if len(longer) < 3 or not pairs:
        return {"networks": []}
    bound = noise * float(stats.t.ppf(0.975, pairs))
    rows: list[dict[str, Any]] = [
        {
            "choices": choices,
            "macs": full.macs,
            "at": table.fulls[choices].curve[-1],
            "at_twice": full.curve[-1],
            "test_at": table.fulls[choices].test,
            "test_at_twice": full.test,
            "level": abs(gain(table.fulls[choices].curve[-1], full.curve[-1])) <= bound,
        }
        for choices, full in sorted(longer.items(), key=lambda item: item[1].macs)
    ]
    return {
        "epochs": [cache.EPOCHS, TWICE],
        "noise": noise,
        "noise_pairs": pairs,
        "share_level": statistics.fmean(row["level"] for row in rows),
        "terciles": terciles(table, rows),
        "volume_ratio": volume_ratio(table, rows),
        "volume_ratio_half": volume_ratio_half(table),
        "networks": rows,
    }


def between_seeds(table: Table) -> tuple[float, int]:
    """Root mean square difference of two trainings of a network with other seeds; of how many pairs."""
    again = {c: full for (c, seed), full in cache.fulls().items() if seed == 1 and c in table.fulls}
    differences = [gain(table.fulls[c].curve[-1], full.curve[-1]) for c, full in again.items()]
    if not differences:
        return math.nan, 0
    return math.sqrt(statistics.fmean(d * d for d in differences)), len(differences)


def gain(before: float, after: float) -> float:
    """Difference of two accuracies on the scale of log odds."""
    return log_odds(Score(after, EXAMPLES)) - log_odds(Score(before, EXAMPLES))


def terciles(table: Table, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means by thirds of the candidates, by size."""
    macs = sorted(full.macs for full in table.fulls.values())
    edges = [-1, macs[len(macs) // 3 - 1], macs[2 * len(macs) // 3 - 1], macs[-1]]
    found = []
    for low, high in itertools.pairwise(edges):
        inside = [row for row in rows if low < row["macs"] <= high]
        means = {
            key: statistics.fmean(row[key] for row in inside) if inside else None
            for key in ("at", "at_twice", "test_at", "test_at_twice")
        }
        found.append(
            {"macs_to": high, "networks": len(inside), "level": sum(r["level"] for r in inside), **means}
        )
    return found


def volume_ratio(table: Table, rows: Sequence[dict[str, Any]]) -> float:
    """Modelled: hypervolume of the plain search's front after twice as many epochs over that after all."""
    sizes = np.log([row["macs"] for row in rows])
    lines = [
        np.polyfit(sizes, [gain(row[a], row[b]) for row in rows], 1)
        for a, b in (("at", "at_twice"), ("test_at", "test_at_twice"))
    ]
    before, after = list[tuple[float, float, float]](), list[tuple[float, float, float]]()
    for choices, full in table.fulls.items():
        latency_s, size = table.latency_s[choices], math.log(full.macs)
        seen, test = (
            moved(Score(value, EXAMPLES), float(np.polyval(line, size))).value
            for value, line in zip((full.curve[-1], full.test), lines, strict=True)
        )
        before.append((1 - full.curve[-1], latency_s, full.test))
        after.append((1 - seen, latency_s, test))
    return table.volume(after) / table.volume(before)


def volume_ratio_half(table: Table) -> float | None:
    """Hypervolume of the front after half as many epochs over that after all; None if some had none."""
    shorter = {c: full for (c, seed), full in cache.fulls(HALF).items() if seed == 0}
    if not table.fulls.keys() <= shorter.keys():
        return None
    half, whole = (
        table.volume([(1 - fulls[c].curve[-1], table.latency_s[c], fulls[c].test) for c in table.fulls])
        for fulls in (shorter, table.fulls)
    )
    return half / whole
