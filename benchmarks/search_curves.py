"""The picture of reports of ``benchmarks.search_quality``: regret over trainings, one panel per table.

::

    python -m benchmarks.search_quality --budget 10,20,30,40,50,75,100,125,150,175,200 --json quality.json
    python -m benchmarks.search_curves quality.json [another.json ...] docs/strategies.png

Above the hypervolume regret, below the points of accuracy lost under a limit; bands are standard errors over
the seeds.  Of a strategy that stands in several reports the first counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

MEASURES = {
    "hypervolume_regret": "hypervolume regret",
    "constrained_regret": "points of accuracy lost\nunder a latency limit",
}
SMALLEST = {"hypervolume_regret": 2e-3, "constrained_regret": 1e-2}
"""Lower ends of the (logarithmic) axes; a regret of 0 is drawn there."""


def joined(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Mapping[str, float]]]]:
    """Cells of several reports by measure, table and strategy; a strategy's name with its number of seeds."""
    cells: dict[str, dict[str, dict[str, Mapping[str, float]]]] = {measure: {} for measure in MEASURES}
    found: set[str] = set()
    for report in reports:
        new = {s for cell in report["hypervolume_regret"].values() for s in cell} - found
        found |= new
        for measure in MEASURES:
            for table, strategies in report[measure].items():
                for name in [name for name in strategies if name in new]:
                    label = f"{name} ({len(report['seeds'])} seeds)"
                    cells[measure].setdefault(table, {})[label] = strategies[name]
    return cells


def picture(report: Mapping[str, Any], path: Path) -> None:
    """Draws all tables and strategies of joined reports."""
    tables = list(report["hypervolume_regret"])
    figure = Figure(figsize=(3.2 * len(tables), 6.0), layout="constrained")
    axes = figure.subplots(len(MEASURES), len(tables), squeeze=False, sharex=True, sharey="row")
    for row, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for axis, table in zip(row, tables, strict=True):
            for number, (strategy, cell) in enumerate(report[measure][table].items()):
                _curve(axis, strategy, cell, SMALLEST[measure], f"C{number}")
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
        row[0].set_ylabel(label)
    for axis, table in zip(axes[0], tables, strict=True):
        axis.set_title(table)
    for axis in axes[-1]:
        axis.set_xlabel("trainings")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def _curve(axis: Axes, strategy: str, cell: Mapping[str, float], smallest: float, colour: str) -> None:
    looks = sorted(int(key) for key in cell if key.isdecimal())
    means = [max(cell[str(look)], smallest) for look in looks]
    errors = [cell.get(f"{look}_se", 0.0) for look in looks]
    width = 2.4 if strategy.startswith("bayesian (") else 1.3
    axis.plot(looks, means, color=colour, linewidth=width, label=strategy)
    low = [max(mean - error, smallest) for mean, error in zip(means, errors, strict=True)]
    high = [mean + error for mean, error in zip(means, errors, strict=True)]
    axis.fill_between(looks, low, high, color=colour, alpha=0.15, linewidth=0)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="search_curves", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    picture(joined([json.loads(file.read_text()) for file in arguments.reports]), arguments.picture)


if __name__ == "__main__":
    main()
