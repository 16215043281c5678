"""What the nights of a series amount to: regressions until they are mended, improvements as the new baseline.

The rules of one night are :mod:`results.regression`'s; here is what follows from one night to the next.

* A *regression* (or slow change) stands until a night lies nearer to the level before it than to its own and
  is not confirmed as one itself: then it is *mended*.  Where that may be the luck of one night
  (:data:`LUCK`), it takes a second one in a row.  Its nights never enter the history.  Accepted, its
  newest level begins a new segment.
* An *improvement* that was confirmed moves the baseline: at once where it is larger than :data:`SURE`
  standard deviations, else with the second night in a row, since both looks of a night share what that night
  did to the file.  A level that crept down moves it, too.
* A candidate that there was no time to measure again stays out of the history, and the night after stands in
  for the second look.
* Another environment begins a new segment.  The reference network may have changed with it, so there the
  figures themselves are compared (scale ``level``), not their ratios to the reference, until the environment
  has :data:`LEAST_NIGHTS` nights of its own.  An environment that returns finds its own segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from results.regression import (
    LEAST_NIGHTS,
    WINDOW,
    Finding,
    History,
    Watch,
    baseline,
    confirmed,
    examine,
    levels,
)

Outcome = Literal["fine", "learning", "unconfirmed", "improvement", "mended", "regression", "slow change"]
Scale = Literal["ratio", "level"]
BAD: tuple[Outcome, ...] = ("regression", "slow change")
WORSE, BETTER = 1, -1

SURE = 15.0
"""Standard deviations of a night beyond which one night is enough to move the baseline down, and one look to
tell what a changed environment cost where there was no time for a second.  Student's t with 3 degrees of
freedom, the heaviest tail that ``benchmarks.nightly`` draws, goes beyond once in 16,000 nights."""

LUCK = 4.0
"""Standard deviations of a night below a regression's level, up to which one night does not mend it."""

_RANKS = ("learning", "fine", "candidate", "slow change")


@dataclass(frozen=True)
class Point:
    """One night's figure of a series.

    Attributes:
        night: Which night.
        environment: Fingerprint of the environment.
        level: Logarithm of the figure.
        ratio: The same less that of the reference, where there is one.
    """

    night: str
    environment: str
    level: float
    ratio: float

    def on(self, scale: Scale) -> float:
        """The figure on a scale."""
        return self.level if scale == "level" else self.ratio


@dataclass(frozen=True)
class Step:
    """From one level to another.

    Attributes:
        scale: On which it was seen.
        before: The level before, as a point of the environment in which it was seen.
        point: The newest night after it.
    """

    scale: Scale
    before: Point
    point: Point

    def lasts(self, tonight: Point) -> bool:
        """Whether a night lies nearer to the level after the step than to that before it."""
        return self.shift(tonight) / self.shift(self.point) > 0.5  # both below 0 for an improvement

    def shift(self, tonight: Point) -> float:
        """Logarithm of how far a night lies above the level before the step."""
        scale = self.scale if tonight.environment == self.before.environment else "level"
        return tonight.on(scale) - self.before.on(scale)


@dataclass(frozen=True)
class Standing:
    """A regression that is neither mended nor accepted.

    Attributes:
        outcome: ``regression`` or ``slow change``.
        night: In which it was seen first.
        step: From where to where, as of the newest night.
        finding: As of the newest night.
        moved: Nights that are the new baseline once it is accepted.
        is_doubted: Whether the night before looked mended, and may have been mere luck.
    """

    outcome: Outcome
    night: str
    step: Step
    finding: Finding
    moved: tuple[Point, ...]
    is_doubted: bool = False


@dataclass(frozen=True)
class Doubt:
    """A night that waits for the next one.

    Attributes:
        sign: Whether it was worse or better.
        step: From where to where.
        is_told: Whether it was told as an improvement; else it was a candidate and not measured again.
    """

    sign: int
    step: Step
    is_told: bool


@dataclass(frozen=True)
class Side:
    """What the rules say of a night in one direction; the finding's shift is above 0 where it went there."""

    sign: int
    scale: Scale
    finding: Finding
    is_confirmed: bool = False

    @property
    def is_told(self) -> bool:
        """Whether there is a step in this direction, or a creeping change."""
        return self.is_confirmed or self.finding.state == "slow change"

    @property
    def told_shift(self) -> float:
        """Of two scales that tell a step: the mean of an environment may hold nights before the step."""
        return self.finding.shift if self.is_told else 0.0

    @property
    def rank(self) -> int:
        """Greater where there is more to tell."""
        return len(_RANKS) if self.is_confirmed else _RANKS.index(self.finding.state)

    @property
    def signed(self) -> Finding:
        """The finding with a shift below 0 where the series became better."""
        return replace(self.finding, shift=math.expm1(self.sign * math.log1p(self.finding.shift)))


@dataclass(frozen=True)
class Verdict:
    """What a night says of a series.

    Attributes:
        outcome: In a word.
        finding: Its figures; the shift is below 0 where the series became better.
        scale: ``level`` where it was told across environments.
        before: Logarithm of the level that it was compared with; None while learning.
        since: Night in which a regression was seen first, or an improvement that did not last.
        wants_again: Whether it should be measured again tonight.
        has_moved: Whether the night moved the baseline.
    """

    outcome: Outcome
    finding: Finding
    scale: Scale = "ratio"
    before: float | None = None
    since: str = ""
    wants_again: bool = False
    has_moved: bool = False


@dataclass
class Series:
    """A series on one board, from night to night.

    Attributes:
        metric: Which figure.
        threshold: Least shift that matters, as a share; None for the metric's own.
        segments: Nights of the history; a new segment begins with a moved baseline and another environment.
        since: First segment since the baseline was moved.
        environment: Fingerprint of the present one.
        standing: A regression that is neither mended nor accepted.
        doubt: A night that waits for the next one.
    """

    metric: str = "latency_p50"
    threshold: float | None = None
    segments: list[list[Point]] = field(default_factory=lambda: [[]])
    since: int = 0
    environment: str = ""
    standing: Standing | None = None
    doubt: Doubt | None = None

    def enter(self, environment: str) -> None:
        """Makes the segment of an environment the present one."""
        if environment == self.environment:
            return
        self.environment = environment
        if not self.segments[-1]:
            self.segments.pop()
        for number in range(len(self.segments) - 1, self.since - 1, -1):
            if self.segments[number][0].environment == environment:
                self.segments.append(self.segments.pop(number))
                return
        self.segments.append([])

    def watch(self, scale: Scale) -> Watch:
        """The history on a scale, for the rules of one night."""
        history = History(tuple(tuple(point.on(scale) for point in segment) for segment in self.segments))
        return Watch(self.metric, history, self.threshold, self.since if scale == "level" else None)

    @property
    def scales(self) -> tuple[Scale, ...]:
        """On which scales the next night is judged."""
        is_new = len(self.segments[-1]) < LEAST_NIGHTS and any(self.segments[self.since : -1])
        return ("level", "ratio") if is_new else ("ratio",)

    def accept(self) -> None:
        """Makes the newest level the baseline."""
        if self.standing is not None:
            self._move(self.standing.moved)
        elif self.segments[-1]:
            self._move([self.segments[-1].pop()])

    def decide(self, looks: Sequence[Point], sides: Mapping[int, Side]) -> Verdict:
        """What a night says, and takes it into account for the next one.

        Args:
            looks: The night; the second look counts where it looked like a step at first.
            sides: What the rules say of it for :data:`WORSE` and for :data:`BETTER`.
        """
        worse, better = sides[WORSE], sides[BETTER]
        states = {side.finding.state for side in sides.values()}
        is_candidate = "candidate" in states
        looked_again = is_candidate and "slow change" not in states and len(looks) > 1
        point = _mean(looks if looked_again else looks[:1], self.environment)
        if self.standing is not None and self.standing.step.lasts(point):
            return self._worse(point, worse)
        if self.standing is not None and not worse.is_told and self._may_be_luck(self.standing, point):
            self.standing = replace(self.standing, is_doubted=True)
            return self._told(self.standing, self.standing.step.shift(point))
        if worse.is_told:
            verdict = self._worse(point, worse)
        elif better.is_told or self._improvement_lasts(point):
            verdict = self._better(point, better)
        else:
            verdict = self._neither(point, max(worse, better, key=lambda side: side.rank), looked_again)
        return replace(verdict, wants_again=is_candidate and not looked_again)

    def _worse(self, point: Point, side: Side) -> Verdict:
        known = self.standing
        if known is not None and known.step.shift(point) <= 0:
            known = None  # below the level that was known then, and worse than what came after
        if known is None and side.finding.state == "slow change":
            known = self._crept_up(point, side.finding)
        elif known is None:
            step = Step(side.scale, self._before(side.scale), point)
            doubt = self.doubt if self.doubt is not None and self.doubt.sign == WORSE else None
            night = point.night if doubt is None else doubt.step.point.night
            known = Standing("regression", night, step, side.finding, (point,))
        else:
            shift = math.expm1(known.step.shift(point))
            p = side.finding.p if side.is_told else known.finding.p
            known = replace(
                known,
                step=replace(known.step, point=point),
                finding=replace(known.finding, shift=shift, p=p),
                moved=(point,),
                is_doubted=False,
            )
        self.standing, self.doubt = known, None
        return self._told(known, math.log1p(known.finding.shift))

    def _told(self, known: Standing, shift: float) -> Verdict:
        """A standing regression, with how far tonight lies above the level before it."""
        found = replace(known.finding, shift=math.expm1(shift))
        return Verdict(known.outcome, found, known.step.scale, known.step.before.level, since=known.night)

    def _may_be_luck(self, known: Standing, point: Point) -> bool:
        """Whether a first night nearer to the level before may come from the scatter of single nights."""
        shift, scale = known.step.shift(point), known.step.scale
        base = baseline(self.watch(scale).history, self.watch(scale).since)
        if known.is_doubted or shift <= 0 or base is None:
            return False
        return known.step.shift(known.step.point) - shift < LUCK * base.spread

    def _crept_up(self, point: Point, finding: Finding) -> Standing:
        """Leaves the first level as the baseline."""
        first, *others, last = self._parts(point)
        before = _mean(first, self.environment)
        self.segments[-1:] = [*others, last[:-1], first]
        self.since = len(self.segments) - 1
        step = Step("ratio", before, _mean(last, self.environment))
        return Standing("slow change", point.night, step, finding, tuple(last))

    def _better(self, point: Point, side: Side) -> Verdict:
        doubt, self.standing, self.doubt = self.doubt, None, None
        if side.finding.state == "slow change" and not side.is_confirmed:
            *others, last = self._parts(point)
            before, self.segments[-1:] = _mean(others[0], self.environment), [*others, last]
            self.since = len(self.segments) - 1
            return Verdict("improvement", side.signed, "ratio", before.level, has_moved=True)
        if doubt is not None and doubt.sign == BETTER:
            self._move([doubt.step.point, point])
            found = replace(side.finding, shift=math.expm1(doubt.step.shift(point)))
            level = doubt.step.before.level
            return Verdict("improvement", found, doubt.step.scale, level, has_moved=True)
        step = Step(side.scale, self._before(side.scale), point)
        is_sure = _is_sure(side.finding, self.watch(side.scale))
        if is_sure:
            self._move([point])
        else:
            self.doubt = Doubt(BETTER, step, is_told=True)
        return Verdict("improvement", side.signed, side.scale, step.before.level, has_moved=is_sure)

    def _neither(self, point: Point, side: Side, looked_again: bool) -> Verdict:
        standing, doubt, self.standing, self.doubt = self.standing, self.doubt, None, None
        before = None if side.finding.state == "learning" else self._before(side.scale)
        outcome: Outcome = "learning" if before is None else "fine"
        since = ""
        if before is not None and side.finding.state == "candidate":
            outcome = "unconfirmed"
            if not looked_again:
                self.doubt = Doubt(side.sign, Step(side.scale, before, point), is_told=False)
        elif doubt is not None and doubt.is_told:
            outcome, since = "unconfirmed", doubt.step.point.night
        if standing is not None:
            outcome, since = "mended", standing.night
        if self.doubt is None:
            self.segments[-1].append(point)
        return Verdict(outcome, side.signed, side.scale, before.level if before else None, since=since)

    def _improvement_lasts(self, point: Point) -> bool:
        doubt = self.doubt
        return doubt is not None and doubt.is_told and doubt.step.lasts(point)

    def _before(self, scale: Scale) -> Point:
        """The level that a night is compared with; on the scale ``ratio`` with the figures behind it."""
        watch = self.watch(scale)
        base = baseline(watch.history, watch.since)
        if base is None:
            raise ValueError("nothing to compare with while learning")
        if scale == "ratio":
            return _mean(self.segments[-1][-WINDOW:], self.environment)
        return Point("", self.environment, base.mean, math.nan)

    def _parts(self, point: Point) -> list[list[Point]]:
        """The present segment with tonight, cut where levels begin."""
        nights = [*self.segments[-1], point]
        lengths = [len(part) for part in levels(self.watch("ratio"), point.ratio)]
        ends = [len(nights) - sum(lengths[n + 1 :]) for n in range(len(lengths))]
        return [nights[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _move(self, points: Iterable[Point]) -> None:
        """Begins a baseline with some nights; what came before still tells the spread."""
        if not self.segments[-1]:
            self.segments.pop()
        self.segments.append(list(points))
        self.since = len(self.segments) - 1
        self.standing = self.doubt = None


def judge(
    series: Mapping[str, Series], tonight: Mapping[str, Point], again: Mapping[str, Point]
) -> dict[str, Verdict]:
    """Verdicts of one night, which the series take into account for the next one.

    Args:
        series: By name; their present environment is tonight's.
        tonight: First looks.
        again: Second looks at some of them.
    """
    worse, better = (_sides(sign, series, tonight, again) for sign in (WORSE, BETTER))
    verdicts = {}
    for name, one in series.items():
        looks = [looks[name] for looks in (tonight, again) if name in looks]
        verdicts[name] = one.decide(looks, {WORSE: worse[name], BETTER: better[name]})
    return verdicts


def _sides(
    sign: int, series: Mapping[str, Series], tonight: Mapping[str, Point], again: Mapping[str, Point]
) -> dict[str, Side]:
    """What the rules say of all series in one direction: of each what tells most."""
    keys = [(name, scale) for name, one in series.items() for scale in one.scales]
    watches = {(name, scale): series[name].watch(scale) for name, scale in keys}
    if sign == BETTER:
        watches = {key: watch.mirrored() for key, watch in watches.items()}
    figures = {(name, scale): sign * tonight[name].on(scale) for name, scale in keys}
    found = examine(watches, figures)
    second = {}
    for name, scale in keys:
        other = again.get(name) or _doubted(series[name], sign, scale)
        if other is None and scale == "level" and _is_sure(found[name, scale], watches[name, scale]):
            other = tonight[name]
        if other is not None and found[name, scale].state == "candidate":
            second[name, scale] = sign * other.on(scale)
    bad = confirmed(watches, figures, second)
    sides: dict[str, Side] = {}
    for name, scale in keys:
        side = Side(sign, scale, found[name, scale], (name, scale) in bad)
        sides[name] = max(sides.get(name, side), side, key=lambda one: (one.rank, one.told_shift))
    return sides


def _doubted(series: Series, sign: int, scale: Scale) -> Point | None:
    """The night before, where it is to stand in for a second look."""
    doubt = series.doubt
    if doubt is None or doubt.sign != sign or doubt.step.scale != scale:
        return None
    return doubt.step.point if doubt.step.point.environment == series.environment else None


def _is_sure(finding: Finding, watch: Watch) -> bool:
    base = baseline(watch.history, watch.since)
    return base is not None and math.log1p(finding.shift) > SURE * base.spread


def _mean(points: Sequence[Point], environment: str) -> Point:
    """The mean of some nights, or looks, named after the last."""
    level, ratio = (math.fsum(p.on(s) for p in points) / len(points) for s in ("level", "ratio"))
    return Point(points[-1].night, environment, level, ratio)
