"""`boardwise nightly`: named models measured every night, and a verdict on each.

Every block of models is measured in turns with the reference network over freshly started agents; candidates
for a regression are measured again before the night ends.  What is a regression is told by
:mod:`results.nights` from the stored figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from devices.registry import Lab
from harness import config, terminal
from harness.board import Board
from harness.export import Exported
from harness.host import Host
from harness.host_trust import ask_secret
from harness.measure import Job, measure_together, require_quiet
from harness.nightly_plan import Item, NightlyPlan, read_plan
from harness.reference import reference
from results import nightly_report
from results.errors import BoardError, CandidateError, ConfigError
from results.nights import BAD, Judged, Look, accept, judge_nights, keep, look, newest_artifacts
from results.records import Artifact, Target
from results.store import Run, Store

BLOCK = 4
"""Models that take turns with one reference; in a longer block they lie further apart."""

QUIET_WAIT_S = 120.0
REGRESSION, ERROR = 3, 1
FIRST, AGAIN, BRIDGE = 0, 1, 2


@dataclass(frozen=True)
class Due:
    """A model that is to be measured on a target."""

    item: Item
    target: Target


@dataclass
class Night:
    """What is in use during one night.

    Attributes:
        name: When it began, UTC.
        plan: The plan.
        run: Where it is stored.
        ends_at: Wall clock after which no block is begun; None for no end.
    """

    name: str
    plan: NightlyPlan
    store: Store
    run: Run
    ends_at: float | None = None
    longest_block_s: float = 0.0

    def measure(self, board: Board, dues: Sequence[Due], slot: int) -> None:
        """Measures models of one board, block by block; stores each block when it is done.

        Raises:
            BoardError: If the board stays away; what was measured is stored.
        """
        for begin in range(0, len(dues), BLOCK):
            block, started = dues[begin : begin + BLOCK], time.time()
            if self.ends_at is not None and started + self.longest_block_s > self.ends_at:
                if slot == FIRST:
                    self._skip(block, "not reached before the end of the night")
                continue
            self._block(board, block, slot, seed=int(started) + begin)
            self.longest_block_s = max(self.longest_block_s, time.time() - started)

    def _block(self, board: Board, block: Sequence[Due], slot: int, *, seed: int) -> None:
        jobs = [
            Job(
                due.item.file.artifact,
                due.item.file.data,
                due.target,
                self.plan.plan,
                reference=beside(due.target),
            )
            for due in block
        ]
        measure_together(board, jobs, seed=seed)
        for due, job in zip(block, jobs, strict=True):
            try:
                measurement = job.measurement(board.facts, board.origin)
            except CandidateError as error:
                if slot == FIRST:
                    self._skip([due], str(error))
                continue
            found = (
                look(measurement, metric, night=self.name, name=due.item.name, slot=slot)
                for metric in self.plan.metrics
            )
            self.store.put_blob(job.data)
            looks = [one for one in found if one is not None]
            keep(self.run, measurement, looks, slot)
            missing = set(self.plan.metrics) - {one.metric for one in looks}
            if slot == FIRST:
                self._skip([due], "the measurement holds no such figure", missing)

    def _skip(self, dues: Iterable[Due], reason: str, metrics: Iterable[str] | None = None) -> None:
        for due in dues:
            for metric in self.plan.metrics if metrics is None else metrics:
                key = f"{self.name}/{due.item.name}/{due.target.name}/{metric}"
                self.run.append("unmeasured", key, {"reason": reason})

    def unreached(self, dues: Iterable[Due], reason: str) -> None:
        """Stores why models were not measured, as far as they were not."""
        known = {key for kind in ("looked", "unmeasured") for key in self._keys(kind)}
        self._skip([d for d in dues if f"{d.item.name}/{d.target.name}" not in known], reason)

    def _keys(self, kind: str) -> list[str]:
        keys = [r.key.split("/") for r in self.run.records(kind) if r.key.startswith(self.name)]
        return ["/".join(key[1:3]) for key in keys]

    def judged(self) -> list[Judged]:
        """What the night says so far."""
        return judge_nights(self.run, self.plan.thresholds)[self.name]


def beside(target: Target) -> Exported:
    """The reference in the format that a target runs."""
    return reference(target.file_format)


def nightly(args: argparse.Namespace) -> int:
    """Measures a plan and judges it, or accepts a step: ``nightly accept NAME``."""
    if args.words[0] == "accept":
        return _accept(args)
    if len(args.words) != 1:
        raise ConfigError(f"nightly takes one plan file, or accept NAME; got {' '.join(args.words)}")
    plan = read_plan(Path(args.words[0]))
    if args.accept_noisy:
        plan = replace(plan, accept_noisy=True)
    lab = Lab.load(args.lab)
    for target in plan.targets:
        lab.entry(target.device)
    ends_at = None if args.until is None else next_time(args.until, datetime.now().astimezone())
    with Store.open(args.runs / "nightly" / "store.sqlite") as store:
        run = (
            store.run(plan.name) if plan.name in store.runs() else store.begin(plan.name, {"kind": "nightly"})
        )
        with store.claim(run.name):
            name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            run.append("night", name, {"until": args.until, "thresholds": dict(plan.thresholds)})
            _measure(Night(name, plan, store, run, ends_at), lab)
        nights = judge_nights(run, plan.thresholds)
    paths = nightly_report.write(args.runs / "nightly" / plan.name, plan.name, nights)
    return _say(args, nights[name], paths)


def next_time(text: str, now: datetime) -> float:
    """The next time that a clock shows, such as ``06:00``, in seconds since the epoch.

    Raises:
        ConfigError: If it is no time of a day.
    """
    try:
        clock = datetime.strptime(text, "%H:%M").time()
    except ValueError as error:
        raise ConfigError(f"--until {text!r}: write it like 06:00") from error
    end = datetime.combine(now.date(), clock, now.tzinfo)
    return (end if end > now else end + timedelta(days=1)).timestamp()


def _measure(night: Night, lab: Lab) -> None:
    host = Host()
    dues = [
        Due(item, target)
        for target in night.plan.targets
        for one in night.plan.sources
        for item in one.items(target.file_format)
    ]
    for device in dict.fromkeys(due.target.device for due in dues):
        here = [due for due in dues if due.target.device == device]
        with ExitStack() as stack:
            board = config.board_of(
                lab.entry(device),
                f"boardwise nightly {night.plan.name}",
                host,
                ask_secret=ask_secret(),
                give_up_after_s=night.plan.give_up_after_s,
                lab=lab,
            )
            stack.callback(board.close)
            try:
                _measure_board(night, board, here)
            except BoardError as error:
                night.unreached(here, str(error))


def _measure_board(night: Night, board: Board, dues: Sequence[Due]) -> None:
    before = newest_artifacts(night.run)
    if not night.plan.accept_noisy:
        require_quiet(board, [due.target for due in dues], wait_s=QUIET_WAIT_S)
    night.measure(board, dues, FIRST)
    judged = {one.series: one for one in night.judged()}
    again = [due for due in dues if any(o.outcome == "unconfirmed" for o in _series(night, due, judged))]
    night.measure(board, again, AGAIN)
    bridges = [bridge for due in dues if (bridge := _bridge(night, due, judged, before)) is not None]
    night.measure(board, bridges, BRIDGE)


def _series(night: Night, due: Due, judged: dict[str, Judged]) -> list[Judged]:
    names = [f"{due.item.name}/{due.target.name}/{metric}" for metric in night.plan.metrics]
    return [judged[name] for name in names if name in judged]


def _bridge(night: Night, due: Due, judged: dict[str, Judged], before: dict[str, Look]) -> Due | None:
    """The file of the night before, where both the environment and the file are new."""
    for one in _series(night, due, judged):
        old = before.get(one.series)
        if (
            one.outcome == "new environment"
            and old is not None
            and old.artifact != due.item.file.artifact.sha256
        ):
            data = night.store.blob(old.artifact)
            known = due.item.file.artifact
            artifact = Artifact(old.artifact, old.artifact, "", known.file_format, known.precision, len(data))
            return Due(Item(due.item.name, Exported(artifact, data)), due.target)
    return None


def _accept(args: argparse.Namespace) -> int:
    if len(args.words) != 2:
        raise ConfigError("write it like: boardwise nightly accept NAME")
    with Store.open(args.runs / "nightly" / "store.sqlite") as store:
        errors: list[ConfigError] = []
        accepted: list[str] = []
        for name in store.runs():
            try:
                accepted += accept(store.run(name), args.words[1])
            except ConfigError as error:
                errors.append(error)
    if not accepted:
        raise errors[0] if errors else ConfigError(f"{args.runs}/nightly holds no nights yet")
    for series in accepted:
        terminal.write(f"accepted: {series}")
    return 0


def _say(args: argparse.Namespace, judged: Sequence[Judged], paths: Sequence[Path]) -> int:
    if args.json:
        terminal.write(paths[2].read_text().rstrip("\n"))
    else:
        terminal.write(nightly_report.headline(judged))
        for one in judged:
            if one.outcome not in ("fine", "learning"):
                terminal.write(f"  {one.outcome}: {one.series}: {one.text}")
        for path in paths:
            terminal.write(f"  {path}")
    if any(one.outcome in BAD for one in judged):
        return REGRESSION
    return ERROR if not judged or any(one.outcome == "unmeasured" for one in judged) else 0
