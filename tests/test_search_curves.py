"""The picture of the search benchmark: what it joins, and that it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.search_curves import joined, picture


def report(seeds: int, **regret_at_20: float) -> dict[str, Any]:
    """As ``benchmarks.search_quality`` writes it, of one table."""
    cell = {name: {"10": 0.5, "10_se": 0.01, "20": end, "20_se": 0.0} for name, end in regret_at_20.items()}
    return {
        "hypervolume_regret": {"board": cell},
        "constrained_regret": {"board": cell},
        "seeds": list(range(seeds)),
    }


def test_reports_are_joined_and_the_first_counts() -> None:
    cells = joined([report(20, bayesian=0.1), report(3, bayesian=0.9, nsga2=0.3)])
    assert {name: cell["20"] for name, cell in cells["hypervolume_regret"]["board"].items()} == {
        "bayesian (20 seeds)": 0.1,
        "nsga2 (3 seeds)": 0.3,
    }
    assert cells["constrained_regret"].keys() == {"board"}


def test_a_regret_of_zero_is_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    picture(joined([report(2, bayesian=0.0, random_search=0.4)]), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as drawn:
        assert drawn.width > 300
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 20, "two curves with bands, not a blank"
