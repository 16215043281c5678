"""What the speed-ups save: training seconds until 98 % of the plain search's final hypervolume.

::

    python -m benchmarks.speedups --json speedups.json                  # everything
    python -m benchmarks.speedups --json s.json --only combined --seeds 0

Task ``digits_in_photos``; 68 plain chains of up to 1.5 million MACs (:mod:`benchmarks.speedups_cache`);
accuracy up, p90 latency of ONNX Runtime on this machine down, measured once.  All searches take their
candidates in the same random order.  The plain search trains each for all epochs from fresh weights; its
trainings are read from ``benchmarks/data``.  Whatever inherits, shares or shortens weights is trained live.

A search chooses its front by the validation split and is scored on the test split: hypervolume of (test
error, log latency) of what it chose among its *full* trainings.  The reference point is the greatest test
error of any candidate and 1.1 times the greatest latency on the true front.  That, the logarithm (a network
twice as fast is worth the same anywhere) and the order (each equally likely) make the plain search need most
of its trainings: the whole front counts, from 0.6 to 0.04 of error, five or six networks of it have more than
2 % of the volume each, and the last of these is found after 70 % of the training seconds on average over
orders.  A reference point close to the accurate end was tried and is of no use: two plain searches that
differ in the seeds of their trainings alone would differ by 6 to 20 % in volume, since an error of 0.04 is
known to 0.005; here they differ by 0.5 %, so that 98 % means something.  All this was chosen from the plain
trainings alone, and the rungs of the searches on trainings with other seeds.

Training seconds are CPU seconds of every training, whatever became of it: lower rungs', parents' and the
supernet's, and what it took to make weights to begin with.  The cached ones were made at another time, on a
machine with other work to do: they are multiplied by ``pace``, seconds of an epoch now over those then,
median over the long live trainings.  ``epochs_ratio`` knows no clock: it counts epochs, each at the cached
seconds of an epoch of that network at its full size (so it is too large where rungs have smaller images), and
a supernet's seconds as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import speedups_cache as cache
from benchmarks.speedups_plain import calibration, early_epochs, levelled
from benchmarks.speedups_risk import risk, screening
from benchmarks.speedups_search import (
    FULL,
    PROBLEM,
    Cached,
    Live,
    Outcome,
    Search,
    Step,
    Table,
    full_trainings,
)
from results.fidelity import agreements, describe_fidelity
from results.records import Fidelity, Problem
from search.datasets import load_task
from search.fidelity import SuccessiveHalving
from search.ladder import Ladder
from search.learning_curve_stopping import StopsEarly
from search.space import SearchSpace
from search.strategies import grid
from search.strategy import Strategy
from search.supernet import Supernet
from search.supernet_sampling import SupernetPlan
from search.supernet_training import train_supernet
from search.training_pool import TrainingPool
from search.weight_sources import StartsFrom

LADDER = Ladder((Fidelity(3, resolution=16), FULL), reduction=6, known=1.0)
"""Three annealed epochs of images of 16 pixels cost half of three of 32 and rank the candidates nearly as
well (Kendall's tau to full trainings of 24 epochs 0.69 and 0.70 on every other one, where this was chosen;
0.55 to 0.61 and 0.73 on all of them); two epochs of 32 (0.67) cost more."""
SHARED_FIRST = Ladder((Fidelity(0), FULL), reduction=3, known=1.0)
COMBINED = Ladder((Fidelity(0), FULL), reduction=6, known=1.0)
"""With a search seed of its own (10), which is not scored, it needed 0.12 of the plain search's seconds; with
three epochs of 16 pixels between (``reduction=3``) 0.09, but two better networks were lost instead of one."""
SHARE = 0.98


# --------------------------------------------------------------------------- searches


def plain(table: Table, seed: int) -> Outcome:
    """Every candidate, all epochs."""
    return Search(table, _within(table, seed), Cached(table)).run()


class Shuffled(grid.Strategy):
    """Every architecture once, in random order, each order equally likely.

    Random search would draw decisions and so the few networks with one stage first, which are the fast end of
    the front: what is left of the front is then found among any others.
    """

    def __init__(self, space: SearchSpace, problem: Problem, *, fidelity: Fidelity, seed: int) -> None:
        super().__init__(space, problem, fidelity=fidelity, seed=seed)
        order = np.random.default_rng(seed).permutation(len(self._order))
        self._order = [self._order[i] for i in order]


def _within(table: Table, seed: int) -> Strategy:
    return Shuffled(table.space, PROBLEM, fidelity=FULL, seed=seed)


def _halving(table: Table, seed: int, ladder: Ladder) -> SuccessiveHalving:
    return SuccessiveHalving(
        lambda: _within(table, seed),
        table.space,
        PROBLEM,
        ladder=ladder,
        candidates=len(list(table.space.architectures())),
        seed=seed,
    )


def learning_curves(table: Table, seed: int, pool: TrainingPool) -> Outcome:
    """All epochs from fresh weights (cached), unless the curve is hopeless."""
    stopping = StopsEarly(_within(table, seed))
    return Search(table, stopping, Cached(table, stopping)).run()


def lower_fidelity(table: Table, seed: int, pool: TrainingPool) -> Outcome:
    """Short trainings first; promoted ones go on."""
    return Search(table, _halving(table, seed, LADDER), Live(pool, seed)).run()


def inheritance(table: Table, seed: int, pool: TrainingPool) -> Outcome:
    """Half of the epochs from the weights of the nearest trained network."""
    return Search(table, StartsFrom(_within(table, seed)), Live(pool, seed)).run()


def supernet(table: Table, seed: int, pool: TrainingPool) -> Outcome:
    """Shared weights first: their scores are the first rung, from them the best are trained fully."""
    strategy = StartsFrom(_halving(table, seed, SHARED_FIRST), source="supernet")
    return _from_shared(table, seed, strategy, Live(pool, seed))


def combined(table: Table, seed: int, pool: TrainingPool) -> Outcome:
    """Scores of shared weights first, full trainings of the best from them; hopeless ones are ended."""
    strategy = StopsEarly(StartsFrom(_halving(table, seed, COMBINED), source="supernet"))
    return _from_shared(table, seed, strategy, Live(pool, seed, stopping=strategy))


def _from_shared(table: Table, seed: int, strategy: Strategy, trainer: Live) -> Outcome:
    """A search with a supernet, whose training comes before it and counts."""
    trained = train_supernet(table.space, load_task(cache.TASK), SupernetPlan(), seed)
    trainer.supernet = Supernet.trained(trained.weights, seed)
    outcome = Search(table, strategy, trainer).run()
    outcome.before_s = trained.training_s
    return outcome


SINGLE: dict[str, Callable[[Table, int, TrainingPool], Outcome]] = {
    "learning_curves": learning_curves,
    "lower_fidelity": lower_fidelity,
    "inheritance": inheritance,
    "supernet": supernet,
}


# --------------------------------------------------------------------------- figures


def until(steps: Sequence[Step], volume: float) -> Step | None:
    """The first step that reaches a volume."""
    return next((step for step in steps if step.volume >= volume), None)


def compared(table: Table, plain_: Outcome, other: Outcome) -> dict[str, Any]:
    """A search against the plain one of the same seed."""
    before, after, pace = table.steps(plain_), table.steps(other), table.pace(other)
    final, end = before[-1], after[-1]
    theirs, ours = until(before, SHARE * final.volume), until(after, SHARE * final.volume)
    figures: dict[str, Any] = {
        "training_seconds_ratio": None,
        "epochs_ratio": None,
        "hypervolume_ratio": end.volume / final.volume,
        "whole_search_ratio": end.trained_s / (pace * final.trained_s),
        "whole_search_epochs_ratio": end.epochs_s / final.epochs_s,
        "plain_until_share": None if theirs is None else theirs.trained_s / final.trained_s,
        "plain_s": final.trained_s,
        "trained_s": end.trained_s,
        "pace": pace,
        "trials": len(other.evaluations),
        "full_trainings": len(full_trainings(other)),
        "stopped": sum(e.stopped for e in other.evaluations),
        "wall_s": other.wall_s,
        "risk": risk(table, other),
        "first_rung": screening(table, other),
        "kept_weights": kept_weights(table, other),
        "rungs": [
            {
                "low": describe_fidelity(a.low),
                "high": describe_fidelity(a.high),
                "networks": a.networks,
                "tau": None if a.tau is None else asdict(a.tau),
            }
            for a in agreements(other.evaluations)
        ],
    }
    if theirs is not None and ours is not None:
        figures["training_seconds_ratio"] = ours.trained_s / (pace * theirs.trained_s)
        figures["epochs_ratio"] = ours.epochs_s / theirs.epochs_s
    return figures


def kept_weights(table: Table, outcome: Outcome) -> dict[str, Any] | None:
    """Test accuracy of full trainings that began with weights (a lower rung's, a parent's) over fresh ones'.

    Mean difference with its 95 % t-interval; the fresh trainings took ``fresh_epochs``, these ``own_epochs``.
    """
    promoted = [e for e in full_trainings(outcome) if isinstance(e.trial.proposal.weights_from, int)]
    gains = [
        outcome.tests[e.trial.number] - table.fulls[e.trial.proposal.architecture.choices].test
        for e in promoted
    ]
    if len(gains) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / len(gains) ** 0.5
    middle = statistics.fmean(gains)
    return {
        "networks": len(gains),
        "difference": {"low": middle - half, "value": middle, "high": middle + half},
        "own_epochs": statistics.fmean(e.trial.proposal.fidelity.epochs for e in promoted),
        "fresh_epochs": FULL.epochs,
    }


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of the ratios; None where a search never got there."""
    keys = (
        "training_seconds_ratio",
        "epochs_ratio",
        "hypervolume_ratio",
        "whole_search_ratio",
        "whole_search_epochs_ratio",
    )
    means: dict[str, Any] = {}
    for key in keys:
        values = [row[key] for row in rows]
        means[key] = None if None in values else statistics.fmean(values)
    return means


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the combined search")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("combined", *SINGLE))
    arguments = parser.parse_args()
    began_s = time.monotonic()
    for figures in measure(arguments.seeds, arguments.workers, arguments.only):
        text = json.dumps(figures | {"wall_s": time.monotonic() - began_s}, indent=2)
        if arguments.json:  # after every search, so that none is lost to an interruption
            arguments.json.write_text(text + "\n")
    print(text)


def measure(seeds: Sequence[int], workers: int, only: str | None) -> Iterator[dict[str, Any]]:
    """Everything, or one of the searches (single ones with the first seed); more after each search."""
    table = Table()
    first = seeds[0]
    figures: dict[str, Any] = {
        "candidates": len(table.fulls),
        "reference": {"error": table.reference[0], "log_latency": table.reference[1]},
        "plain": {"levelled_off": levelled(table), "early_epochs": early_epochs(table)},
        "calibration": calibration(table),
        "each": {},
    }
    yield figures
    with TrainingPool(workers, coming=(cache.TASK, {})) as pool:
        for name, search in SINGLE.items():
            if only in (None, name):
                figures["each"][name] = _said(name, first, table, search(table, first, pool))
                yield figures
        rows: dict[str, dict[str, Any]] = {}
        for seed in seeds if only in (None, "combined") else ():
            rows[str(seed)] = _said("combined", seed, table, combined(table, seed, pool))
            figures["combined"] = mean_of(list(rows.values())) | {"seeds": dict(rows)}
            yield figures


def _said(name: str, seed: int, table: Table, outcome: Outcome) -> dict[str, Any]:
    """The figures of a search, their main ones told at once."""
    figures = compared(table, plain(table, seed), outcome)
    told = {key: figures[key] for key in ("training_seconds_ratio", "hypervolume_ratio", "wall_s")}
    print(f"{name}, seed {seed}: {told}", file=sys.stderr, flush=True)
    return figures


if __name__ == "__main__":
    main()
