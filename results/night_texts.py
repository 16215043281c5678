"""What a night says of a series, in sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from results.records import Environment
from results.series import Verdict
from results.units import show


@dataclass(frozen=True)
class Told:
    """What a sentence is made of.

    Attributes:
        night: Which night.
        metric: Which figure.
        figure: Tonight's [SI].
        verdict: Of the rules.
        changed: What changed in the environment last, in words.
        looked_again: Whether it was measured again in the same night.
    """

    night: str
    metric: str
    figure: float
    verdict: Verdict
    changed: str
    looked_again: bool

    def sentence(self) -> str:
        """What was seen, against what, and what follows."""
        verdict, finding = self.verdict, self.verdict.finding
        if verdict.before is None:
            return f"learning: {finding.nights} nights of history"
        before, newest = math.exp(verdict.before), self.figure
        against = f"{finding.nights} nights"
        if verdict.scale == "level":
            against = f"the series before ({self.changed})"
            newest = before * (1 + finding.shift)  # the figure is tonight's alone
        levels = f"{show(self.metric, before)} -> {show(self.metric, newest)}"
        seen = f"{finding.shift:+.1%} against {against}, p = {finding.p:.2g}: {levels}"
        is_first = verdict.since == self.night
        if verdict.outcome == "slow change":
            since = f"within {finding.nights} nights" if is_first else f"since {verdict.since}"
            return f"crept up by {finding.shift:.1%} {since}: {levels}"
        if verdict.outcome == "regression" and not is_first:
            return f"{finding.shift:+.1%} against {against} since {verdict.since}: {levels}"
        if verdict.outcome == "mended":
            return f"the regression of {verdict.since} is mended: {seen}"
        return self._with_consequence(seen)

    def _with_consequence(self, seen: str) -> str:
        verdict = self.verdict
        if verdict.outcome == "regression" and self.metric == "size":
            return seen  # one look at a file is enough
        if verdict.outcome == "regression":
            if self.looked_again:
                return f"{seen}; measured again in the same night and confirmed"
            return f"{seen}; too large to need a second look"
        if verdict.outcome == "improvement":
            follows = "the baseline moves" if verdict.has_moved else "a second night will move the baseline"
            return f"{seen}; {follows}"
        if verdict.outcome == "unconfirmed" and verdict.since:
            return f"the improvement of {verdict.since} did not last: {seen}"
        if verdict.outcome == "unconfirmed":
            return f"{seen}; not {'confirmed when ' if self.looked_again else ''}measured again"
        return seen


def changes(before: Environment, after: Environment) -> str:
    """Which facts of the environment changed."""
    old, new = dict(before.facts), dict(after.facts)
    keys = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys)


def remedy(series: str, plan: str) -> str:
    """What to do about a regression."""
    return (
        "find what changed and mend it; an intended step is accepted with"
        f" boardwise nightly accept {series} --plan {plan}"
    )
