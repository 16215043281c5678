"""The speed-ups of a study: what ``speedups = [...]`` names, put around its strategy.

From the inside out: ``lower_fidelity`` trains many shortly and few fully, ``inheritance`` and ``supernet``
give first trainings weights to begin with, ``learning_curves`` ends hopeless ones.  Each is usable alone and
with any strategy.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from results.errors import ConfigError
from results.fidelity import describe_fidelity
from results.records import Fidelity
from results.settings import Settings
from search import weight_sources
from search.fidelity import SuccessiveHalving
from search.ladder import KNOWN, Ladder, geometric, is_below
from search.ladder import LEVEL as PROMOTION_LEVEL
from search.learning_curve_stopping import LEVEL, StopsEarly
from search.strategy import Strategy
from search.tasks import Task
from search.weight_sources import StartsFrom

NAMES = ("lower_fidelity", "learning_curves", "inheritance", "supernet")
"""What a study may name."""

LEAST_EPOCHS = 2


@dataclass(frozen=True)
class Speedups:
    """The speed-ups of a study.

    Attributes:
        ladder: Rungs of lower fidelity, or None.
        level: Probability to reach the front below which a training is ended, or None.
        share: Share of the epochs that a child of a trained parent gets, or None.
        nearest: How far a parent may be.
        supernet: Whether trainings begin with the supernet's weights.
        where: File and key, for messages.
    """

    ladder: Ladder | None = None
    level: float | None = None
    share: float | None = None
    nearest: float = weight_sources.NEAREST
    supernet: bool = False
    where: str = "speedups"

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are used, in the order of :data:`NAMES`."""
        used = (self.ladder is not None, self.level is not None, self.share is not None, self.supernet)
        return tuple(name for name, is_used in zip(NAMES, used, strict=True) if is_used)

    def trainings(self, candidates: int) -> int:
        """The most trainings of that many candidates, promotions among them."""
        return candidates * (1 if self.ladder is None else len(self.ladder.rungs))

    def expected_trainings(self, candidates: int) -> int:
        """About how many trainings that many candidates make, for a display."""
        if self.ladder is None:
            return candidates
        return sum(math.ceil(candidates / self.ladder.reduction**k) for k in range(len(self.ladder.rungs)))


def speedups_of(entries: Sequence[Any], full: Fidelity, where: str) -> Speedups:
    """The speed-ups that a study names: texts, or tables with ``name`` and options.

    Args:
        entries: The list.
        full: The study's fidelity.
        where: File, for messages.

    Raises:
        ConfigError: For an unknown name or option, a value that cannot be, or what does not go together.
    """
    found = Speedups(where=f"{where} speedups")
    for entry in entries:
        table = Settings(
            {"name": entry} if isinstance(entry, str) else _table(entry, where), f"{where} speedups"
        )
        name = table.take_name("name", NAMES)
        if name in found.names:
            raise ConfigError(f"{where}: the speed-up {name!r} is named twice")
        found = _READERS[name](found, table, full)
        table.done()
    if found.share is not None and found.supernet:
        raise ConfigError(
            f"{where}: a training begins with the weights of a parent or of the supernet: name one of the "
            "speed-ups 'inheritance' and 'supernet'"
        )
    return found


def _table(entry: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: speedups are names or tables with a name, got {entry!r}")
    return entry


def _lower_fidelity(found: Speedups, table: Settings, full: Fidelity) -> Speedups:
    reduction = table.take_count("reduction", 3, low=2)
    lower = [_fidelity(rung, full) for rung in table.tables("rungs")]
    least = table.take_count("least_epochs", LEAST_EPOCHS)
    rungs = (*lower, full) if lower else geometric(full, least_epochs=least, reduction=reduction)
    if len(rungs) < 2:
        raise table.error("least_epochs", f"leaves no rung below the {full.epochs} epochs of a full training")
    brackets = table.take_count("brackets", 1)
    if brackets > len(rungs):
        raise table.error("brackets", f"must be at most {len(rungs)}, one per rung, got {brackets}")
    for number, (low, high) in enumerate(itertools.pairwise(rungs), start=1):
        if not is_below(low, high):
            raise table.error(
                "rungs",
                f"must rise to the full training, but number {number} ({describe_fidelity(low)}) is not "
                f"below {describe_fidelity(high)}; give it less of something, and no more of anything",
            )
    ladder = Ladder(
        rungs,
        reduction=reduction,
        brackets=brackets,
        keep_weights=table.take("keep_weights", bool, True),
        level=table.take_number("level", PROMOTION_LEVEL, low=0.0, high=0.49),
        known=table.take_number("known", KNOWN, low=0.01, high=1.0),
    )
    return replace(found, ladder=ladder)


def _fidelity(table: Settings, full: Fidelity) -> Fidelity:
    fidelity = Fidelity(
        epochs=table.take_count("epochs", full.epochs, low=0),
        subset=table.take_number("subset", full.subset, low=0.001, high=1.0),
        width=table.take_number("width", full.width, low=0.01, high=1.0),
        resolution=_resolution(table, full),
    )
    table.done()
    return fidelity


def _resolution(table: Settings, full: Fidelity) -> int | None:
    if "resolution" not in table.keys():  # noqa: SIM118  a method of Settings, not of a dictionary
        return full.resolution
    return table.take_count("resolution", 1)


def _learning_curves(found: Speedups, table: Settings, full: Fidelity) -> Speedups:
    return replace(found, level=table.take_number("level", LEVEL, low=1e-4, high=0.49))


def _inheritance(found: Speedups, table: Settings, full: Fidelity) -> Speedups:
    share = table.take_number("share", weight_sources.SHARE, low=0.5, high=1.0)
    return replace(found, share=share, nearest=table.take_number("nearest", found.nearest, low=0.01))


def _supernet(found: Speedups, table: Settings, full: Fidelity) -> Speedups:
    return replace(found, supernet=True)


_READERS: Mapping[str, Callable[[Speedups, Settings, Fidelity], Speedups]] = {
    "lower_fidelity": _lower_fidelity,
    "learning_curves": _learning_curves,
    "inheritance": _inheritance,
    "supernet": _supernet,
}


def check(speedups: Speedups, task: Task, *, pretrains: bool) -> None:
    """Refuses speed-ups that the data or the study have not the means for; before anything is measured.

    Raises:
        ConfigError: If a rung has more pixels than the images, or there is no supernet where one is needed.
    """
    edge = min(task.input_shape[1:])
    for rung in () if speedups.ladder is None else speedups.ladder.rungs:
        if rung.resolution is not None and rung.resolution > edge:
            raise ConfigError(
                f"{speedups.where}: a rung has a resolution of {rung.resolution} pixels, but the images of "
                f"task {task.name!r} have {edge}; choose at most that"
            )
        if rung.epochs == 0 and not speedups.supernet:
            raise ConfigError(
                f"{speedups.where}: a rung with epochs = 0 scores shared weights: name the speed-up "
                "'supernet', too"
            )
    if speedups.supernet and not pretrains:
        raise ConfigError(
            f"{speedups.where}: 'supernet' needs a supernet to take weights from: add a table [pretrain]"
        )


def accelerated(speedups: Speedups, strategy: Strategy, *, candidates: int) -> Strategy:
    """The strategy with the speed-ups around it; itself if there are none.

    Args:
        speedups: Which.
        strategy: Fresh.
        candidates: Number of different architectures that are to be tried.
    """
    result = strategy
    if speedups.ladder is not None:
        result = SuccessiveHalving(
            # Copies of one that was never told anything: what it learnt before the search is kept.
            lambda: copy.deepcopy(strategy, {id(strategy.space): strategy.space}),
            strategy.space,
            strategy.problem,
            ladder=speedups.ladder,
            candidates=candidates,
            seed=strategy.seed,
        )
    if speedups.supernet or speedups.share is not None:
        result = StartsFrom(
            result,
            source="supernet" if speedups.supernet else "parent",
            share=weight_sources.SHARE if speedups.share is None else speedups.share,
            nearest=speedups.nearest,
        )
    return result if speedups.level is None else StopsEarly(result, level=speedups.level)
