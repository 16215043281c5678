"""Nights of a plan as their records tell them, judged one after the other.

Judgements follow from the figures and are made anew each time (:mod:`results.series`); what is stored is what
was measured, what was accepted, and which acceptance was taken back.  A series is known by name, target and
metric.  Figures of another board, or of an emulated one, are never compared with it.  What else changes in
the environment (a kernel, a runtime, a setting) is told, and the step that comes with it is judged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from results import night_texts
from results.codec import from_json, to_json
from results.errors import ConfigError, StoreError, unknown_name
from results.looks import FILE, Look, look
from results.night_texts import Told
from results.records import Measurement
from results.regression import Finding
from results.series import Series, Standing
from results.series import judge as judge_series
from results.store import Record, Run
from results.units import show

Outcome = Literal[
    "fine",
    "learning",
    "unconfirmed",
    "improvement",
    "mended",
    "regression",
    "slow change",
    "new environment",
    "new board",
    "not judged",
    "unmeasured",
]
BAD: tuple[Outcome, ...] = ("regression", "slow change")
_NIGHT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Judged:
    """What a night says of a series.

    Attributes:
        series: Name of the series.
        outcome: In a word.
        look: The figure; None where it was not measured.
        finding: Of the rules.
        text: In a sentence.
        again: The second look, where there is one.
        before: The figure that it was compared with [SI]; None where there is none.
        wants_again: Whether it should be measured again in the same night.
    """

    series: str
    outcome: Outcome
    look: Look | None = None
    finding: Finding = field(default_factory=lambda: Finding("learning"))
    text: str = ""
    again: Look | None = None
    before: float | None = None
    wants_again: bool = False

    @property
    def is_skipped(self) -> bool:
        """Whether nothing can be told yet, or at all."""
        return self.outcome in ("learning", "new board", "not judged") or (
            self.outcome == "new environment" and self.before is None
        )


def keep(
    run: Run,
    measurement: Measurement,
    metrics: Iterable[str],
    *,
    night: str,
    name: str,
    slot: int,
    took_s: float = 0.0,
) -> list[Look]:
    """Stores a measurement of a night and the figures of its series, which it gives back.

    Args:
        run: The plan's run.
        measurement: Of a source on a target.
        metrics: Which figures; those that the measurement does not hold are left out.
        night: Which night.
        name: Name of the source.
        slot: Which look of the night.
        took_s: Time on the board, for each of the metrics [s].
    """
    found = [
        look(measurement, metric, night=night, name=name, slot=slot, took_s=took_s) for metric in metrics
    ]
    looks = [one for one in found if one is not None]
    if looks:
        run.append(
            "measured", f"{night}/{name}/{looks[0].target}/{slot}", {"measurement": to_json(measurement)}
        )
    for one in looks:
        keep_look(run, one)
    return looks


def keep_look(run: Run, one: Look) -> None:
    """Stores a figure."""
    run.append("looked", f"{one.night}/{one.series}/{one.slot}", to_json(one))


# --------------------------------------------------------------------------- what was accepted


def known_names(run: Run) -> set[str]:
    """Names of sources and of series that a plan has figures of."""
    return {name for one in _looks(run) for name in (one.name, f"{one.name}/{one.target}", one.series)}


def accept(run: Run, name: str) -> list[str]:
    """Accepts the newest level of a series, or of all series of a source (and target); the series' names.

    Where some of them are regressions only those are accepted.

    Raises:
        ConfigError: If there is none of that name, with the nearest known.
    """
    newest = {one.series: one.night for one in _looks(run)}
    series = _named(name, newest, known_names(run))
    bad = {one.series for one in standing(run)}
    accepted = [one for one in series if one in bad] or series
    for one in accepted:
        _append(run, "accepted", newest[one], one)
    return accepted


def take_back(run: Run, name: str) -> list[str]:
    """Takes back the newest acceptance of each series of that name; the series' names.

    Raises:
        ConfigError: If nothing of that name is accepted, with what is.
    """
    accepted = {series: night for night, each in _accepted(run).items() for series in each}
    known = {known for one in accepted for known in _names(one)}
    series = _named(name, accepted, known)
    for one in series:
        _append(run, "taken back", accepted[one], one)
    return series


def standing(run: Run) -> list[Judged]:
    """Regressions of the newest night that are neither mended nor accepted."""
    nights = run.records("night")
    if not nights:
        return []
    stored = nights[-1].body.get("thresholds", {}) if isinstance(nights[-1].body, Mapping) else {}
    thresholds = {metric: float(t) for metric, t in stored.items() if isinstance(t, (int, float)) and t > 0}
    *_, newest = judge_nights(run, thresholds).values()
    accepted = _accepted(run).get(nights[-1].key, [])
    return [one for one in newest if one.outcome in BAD and one.series not in accepted]


def accepted_names(run: Run) -> set[str]:
    """Names under which something is accepted."""
    return {name for each in _accepted(run).values() for series in each for name in _names(series)}


def _names(series: str) -> list[str]:
    """A series may be named by its source, by source and target, or in full."""
    parts = series.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _named(name: str, series: Mapping[str, str], known: set[str]) -> list[str]:
    found = sorted(one for one in series if name in _names(one))
    if not found:
        raise ConfigError(unknown_name("series or source", name, known))
    return found


def _append(run: Run, kind: str, night: str, series: str) -> None:
    """Appends a record that may come again after another one revoked it."""
    known = sum(record.body.get("series") == series for record in run.records(kind))
    number = "" if kind == "accepted" and not known else f"#{known + 1}"
    run.append(kind, f"{night}/{series}{number}", {"series": series})


def _accepted(run: Run) -> dict[str, list[str]]:
    """Accepted series by night, without those that were taken back."""
    found: dict[str, list[str]] = {}
    changes = [*run.records("accepted"), *run.records("taken back")]
    for record in sorted(changes, key=lambda record: record.seq):
        night, _ = _key(record)
        series = str(record.body["series"])
        of_night = found.setdefault(night, [])
        if series in of_night:
            of_night.remove(series)
        if record.kind == "accepted":
            of_night.append(series)
    return found


# --------------------------------------------------------------------------- judging


def _looks(run: Run) -> list[Look]:
    looks = [from_json(Look, record.body) for record in run.records("looked")]
    if not all(1e-30 < one.figure.value < 1e30 and abs(one.z) < 100 for one in looks):
        raise StoreError(f"run {run.name!r} holds a figure that nothing measurable has")
    # Earlier versions took the size from the board's measurement, with the board's environment.
    return [replace(one, environment=FILE) if one.metric == "size" else one for one in looks]


def _key(record: Record) -> tuple[str, str]:
    """Night and the rest of a record's key."""
    night, _, rest = record.key.partition("/")
    return night, rest


def night_names(run: Run) -> list[str]:
    """The nights, oldest first.

    Raises:
        StoreError: If one has a name that no night has; files are written under it.
    """
    names = [record.key for record in run.records("night")]
    for name in names:
        if not _NIGHT.fullmatch(name):
            raise StoreError(
                f"run {run.name!r} has a night called {name[:80]!r}; it was not written by nightly"
            )
    return names


def judge_nights(run: Run, thresholds: Mapping[str, float]) -> dict[str, list[Judged]]:
    """Every night judged by those before it, oldest first.

    Args:
        run: The plan's run.
        thresholds: Least shift that matters per metric, as a share, where it is not the default.

    Raises:
        StoreError: If a record is none of a night's.
    """
    state = _State(thresholds)
    looks: dict[str, list[Look]] = {night: [] for night in night_names(run)}
    missing: dict[str, dict[str, str]] = {night: {} for night in looks}
    try:
        for one in _looks(run):
            looks[one.night].append(one)
        for record in run.records("unmeasured"):
            night, series = _key(record)
            missing[night][series] = str(record.body["reason"])
        accepted = _accepted(run)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"run {run.name!r} holds a record that is none of a night's: {error}") from error
    return {
        night: state.night(night, looks[night], missing[night], accepted.get(night, [])) for night in looks
    }


@dataclass
class _Watched:
    """A series on all boards that it was measured on.

    Attributes:
        boards: The series by board.
        newest: The newest look that could be judged.
        changed: Which facts of the environment changed last.
    """

    boards: dict[tuple[str, ...], Series] = field(default_factory=dict)
    newest: Look | None = None
    changed: str = ""

    @property
    def standing(self) -> Standing | None:
        """A regression that is neither mended nor accepted, on whichever board."""
        return next((one.standing for one in self.boards.values() if one.standing is not None), None)

    def accept(self) -> None:
        """Makes the newest level the baseline: of the boards with a regression, else of the newest."""
        standing = [one for one in self.boards.values() if one.standing is not None]
        newest = [] if self.newest is None else [self.boards[self.newest.board]]
        for series in standing or newest:
            series.accept()


@dataclass
class _State:
    """What is known of all series up to some night."""

    thresholds: Mapping[str, float]
    watched: dict[str, _Watched] = field(default_factory=dict)

    def night(
        self, night: str, looks: Sequence[Look], missing: Mapping[str, str], accepted: Sequence[str]
    ) -> list[Judged]:
        """Judges a night and takes it into account."""
        first, again, bridges = ({o.series: o for o in looks if o.slot == slot} for slot in (0, 1, 2))
        again |= {name: one for name, one in first.items() if one.environment == FILE}
        usable = {name: one for name, one in first.items() if not _unusable(one)}
        before = {name: self.watched.setdefault(name, _Watched()).newest for name in usable}
        verdicts = judge_series(
            {name: self._enter(one) for name, one in usable.items()},
            {name: one.point for name, one in usable.items()},
            {name: one.point for name, one in again.items() if name in usable and not _unusable(one)},
        )
        judged = []
        for name, one in first.items():
            if name not in usable:
                judged.append(self._untold(name, "not judged", _unusable(one), one))
                continue
            told = Told(
                night, one.metric, one.figure.value, verdicts[name], self.watched[name].changed, name in again
            )
            judged.append(self._judged(told, one, before[name], again.get(name), bridges.get(name)))
        judged += [
            self._untold(name, "unmeasured", reason) for name, reason in missing.items() if name not in first
        ]
        known = {one.series for one in judged}
        judged += [
            self._untold(name, "unmeasured", "not reached, or no longer in the plan")
            for name, one in self.watched.items()
            if one.standing is not None and name not in known
        ]
        for name in accepted:
            if name in self.watched:
                self.watched[name].accept()
        return judged

    def _enter(self, one: Look) -> Series:
        """The series of a look, in its environment."""
        watched = self.watched[one.series]
        fresh = Series(one.metric, self.thresholds.get(one.metric))
        series = watched.boards.setdefault(one.board, fresh)
        series.enter(one.environment.fingerprint)
        if watched.newest is not None and watched.newest.environment != one.environment:
            watched.changed = night_texts.changes(watched.newest.environment, one.environment)
        watched.newest = one
        return series

    def _judged(
        self, told: Told, one: Look, before: Look | None, again: Look | None, bridge: Look | None
    ) -> Judged:
        verdict = told.verdict
        outcome: Outcome = verdict.outcome
        text = told.sentence()
        is_elsewhere = before is not None and before.board != one.board
        is_changed = before is not None and before.environment != one.environment
        if is_elsewhere:
            text = f"another board ({told.changed}), whose figures are not compared with those before; {text}"
        elif is_changed and outcome in ("fine", "learning"):
            outcome, text = "new environment", f"{told.changed}: {text}"
        if is_elsewhere and outcome == "learning":
            outcome = "new board"
        if bridge is not None and verdict.scale == "level":
            # Of the step the file's share is told by both files of this night, on the ratio to the reference.
            rest = math.log1p(verdict.finding.shift) - (one.z - bridge.z)
            text += f"; {math.expm1(rest):+.1%} with the file of the night before"
        level = None if verdict.before is None else math.exp(verdict.before)
        judged = Judged(
            one.series, outcome, one, verdict.finding, text, again, level, wants_again=verdict.wants_again
        )
        return judged if outcome in BAD else self._still_standing(judged)

    def _untold(self, series: str, outcome: Outcome, reason: str, one: Look | None = None) -> Judged:
        return self._still_standing(Judged(series, outcome, one, text=reason))

    def _still_standing(self, judged: Judged) -> Judged:
        """A regression that tonight could tell nothing of is told all the same."""
        found = self.watched[judged.series].standing if judged.series in self.watched else None
        if found is None:
            return judged
        metric = judged.series.rpartition("/")[2]
        before, newest = math.exp(found.step.before.level), math.exp(found.step.point.level)
        levels = f"{show(metric, before)} -> {show(metric, newest)}"
        last = f"not measured since {found.step.point.night}"
        text = f"{found.finding.shift:+.1%} since {found.night}: {levels}; {last}"
        return replace(
            judged, outcome=found.outcome, finding=found.finding, before=before, text=f"{text}: {judged.text}"
        )


def _unusable(one: Look) -> str:
    if one.environment.get("emulated", ""):
        return "an emulated board: never alerted"
    return f"the measurement is invalid: {'; '.join(one.reasons)}" if one.verdict == "invalid" else ""


def newest_looks(run: Run) -> dict[str, Look]:
    """The newest look of every series, for a bridge to a changed environment."""
    return {one.series: one for one in _looks(run) if one.slot == 0}
