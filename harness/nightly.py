"""`boardwise nightly`: named models measured every night, and a verdict on each.

Every block of models is measured in turns with the reference network over freshly started agents; candidates
for a step are measured again before the night ends.  What is a regression is told by :mod:`results.nights`
from the stored figures.  Sizes are those of the files; they take no board.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from devices.registry import Lab
from harness import config, terminal
from harness.board import Board
from harness.exit_codes import Exit
from harness.export import Exported
from harness.first_look import STORE
from harness.host import Host
from harness.host_trust import ask_secret
from harness.measure import Job, measure_together, require_quiet
from harness.nightly_plan import Item, NightlyPlan, read_plan
from harness.reference import reference
from results import nightly_report
from results.errors import BoardError, CandidateError, ConfigError, UsageError
from results.looks import Look, file_look
from results.nights import BAD, Judged, judge_nights, keep, keep_look, newest_looks
from results.records import Artifact, Target
from results.store import Run, Store

BLOCK = 4
"""Models that take turns with one reference; in a longer block they lie further apart."""

QUIET_WAIT_S = 120.0
FIRST, AGAIN, BRIDGE = 0, 1, 2
QUIET_OUTCOMES = ("fine", "learning", "unmeasured")
"""Not printed one by one."""


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
        store: Where it is stored.
        run: Of the plan.
        ends_at: Wall clock after which no block is begun; None for no end.
        longest_block_s: Longest time that a block took.
        failed: Series whose model could not be measured, whatever the board.
    """

    name: str
    plan: NightlyPlan
    store: Store
    run: Run
    ends_at: float | None = None
    longest_block_s: float = 0.0
    failed: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """The figures that take a board."""
        return [metric for metric in self.plan.metrics if metric != "size"]

    def look_at_files(self, dues: Iterable[Due]) -> None:
        """Stores the sizes of the files, if they are watched."""
        for due in dues if "size" in self.plan.metrics else ():
            artifact = due.item.file.artifact
            one = file_look(
                artifact.size_bytes,
                artifact.sha256,
                night=self.name,
                name=due.item.name,
                target=due.target.name,
            )
            keep_look(self.run, one)

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
        started = time.monotonic()
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
        took_s = (time.monotonic() - started) / len(block) / len(self.metrics)
        for due, job in zip(block, jobs, strict=True):
            try:
                measurement = job.measurement(board.facts, board.origin)
            except CandidateError as error:
                if slot == FIRST:
                    self.failed += self._skip([due], str(error))
                continue
            self.store.put_blob(job.data)
            looks = keep(
                self.run,
                measurement,
                self.metrics,
                night=self.name,
                name=due.item.name,
                slot=slot,
                took_s=took_s,
            )
            missing = set(self.metrics) - {one.metric for one in looks}
            if slot == FIRST:
                self._skip([due], "the measurement holds no such figure", missing)

    def _skip(self, dues: Iterable[Due], reason: str, metrics: Iterable[str] | None = None) -> list[str]:
        """Stores why series were not measured; their names."""
        skipped = [
            f"{due.item.name}/{due.target.name}/{metric}"
            for due in dues
            for metric in (self.metrics if metrics is None else metrics)
        ]
        for series in skipped:
            self.run.append("unmeasured", f"{self.name}/{series}", {"reason": reason})
        return skipped

    def unreached(self, dues: Iterable[Due], reason: str) -> None:
        """Stores why models were not measured, as far as they were not."""
        known = {
            "/".join(record.key.split("/")[1:3])
            for kind in ("measured", "unmeasured")
            for record in self.run.records(kind)
            if record.key.startswith(f"{self.name}/")
        }
        self._skip([d for d in dues if f"{d.item.name}/{d.target.name}" not in known], reason)

    def judged(self) -> list[Judged]:
        """What the night says so far."""
        return judge_nights(self.run, self.plan.thresholds)[self.name]


def beside(target: Target) -> Exported:
    """The reference in the format that a target runs."""
    return reference(target.file_format)


def nightly(args: argparse.Namespace) -> int:
    """Measures a plan and judges it."""
    ends_at = None if args.until is None else next_time(args.until, datetime.now().astimezone())
    plan = read_plan(Path(args.words[0]))
    if args.accept_noisy:
        plan = replace(plan, accept_noisy=True)
    lab = Lab.load(args.lab)
    for target in plan.targets:
        lab.entry(target.device)
    dues = [
        Due(item, target)
        for target in plan.targets
        for one in plan.sources
        for item in one.items(target.file_format)
    ]
    _check_pairs(plan, dues)
    with Store.open(args.runs / "nightly" / STORE) as store:
        run = (
            store.run(plan.name) if plan.name in store.runs() else store.begin(plan.name, {"kind": "nightly"})
        )
        with store.claim(run.name):
            name = _new_name(run)
            run.append("night", name, {"until": args.until, "thresholds": dict(plan.thresholds)})
            night = Night(name, plan, store, run, ends_at)
            _measure(night, lab, dues)
        nights = judge_nights(run, plan.thresholds)
    paths = nightly_report.write(args.runs / "nightly" / plan.name, plan.name, nights)
    _say(args, night, nights[name], paths)
    return _exit(night, nights[name])


def _check_pairs(plan: NightlyPlan, dues: Sequence[Due]) -> None:
    """Raises ConfigError for a target or source that the plan would never measure, since formats differ."""
    for target in plan.targets:
        if target not in [due.target for due in dues]:
            raise ConfigError(
                f"plan {plan.name!r}: {target.name} runs .{target.file_format} files, and no source is one"
            )
    measured = {due.item.name for due in dues}
    for one in plan.sources:
        if not one.run and one.name not in measured:
            raise ConfigError(f"plan {plan.name!r}: no target runs files such as {one.model} ({one.name!r})")


def _new_name(run: Run) -> str:
    """The time of now, UTC; no two nights of a plan begin within the same second."""
    while run.get("night", name := time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())) is not None:
        time.sleep(0.05)
    return name


def next_time(text: str, now: datetime) -> float:
    """The next time that a clock shows, such as ``06:00``, in seconds since the epoch.

    Raises:
        UsageError: If it is no time of a day.
    """
    try:
        clock = datetime.strptime(text, "%H:%M").time()
    except ValueError as error:
        raise UsageError(f"--until {text!r}: write it like 06:00") from error
    end = datetime.combine(now.date(), clock, now.tzinfo)
    return (end if end > now else end + timedelta(days=1)).timestamp()


def _measure(night: Night, lab: Lab, dues: Sequence[Due]) -> None:
    host = Host()
    night.look_at_files(dues)
    for device in dict.fromkeys(due.target.device for due in dues) if night.metrics else ():
        here = [due for due in dues if due.target.device == device]
        with ExitStack() as stack:
            board = config.board_of(
                lab.entry(device),
                f"boardwise nightly {night.plan.name}",
                host,
                ask_secret=ask_secret(),
                give_up_after_s=night.plan.give_up_after_s,
                on_state=_sayer(night.plan.give_up_after_s),
                lab=lab,
            )
            stack.callback(board.close)
            try:
                _measure_board(night, board, here)
            except BoardError as error:
                night.unreached(here, str(error))


def _sayer(give_up_after_s: float) -> Callable[[str, str], None]:
    """Tells the person what keeps a board away, and once as long as it stays the same."""
    told: dict[str, str] = {}

    def say(name: str, state: str) -> None:
        if state != told.setdefault(name, "online"):
            wait = "" if state == "online" else f"; trying again for up to {give_up_after_s:.0f} s"
            terminal.say(f"{name}: {state}{wait}")
        told[name] = state

    return say


def _measure_board(night: Night, board: Board, dues: Sequence[Due]) -> None:
    before = newest_looks(night.run)
    terminal.say(f"{board.name}: measuring {len(dues)} models in turns with the reference")
    if not night.plan.accept_noisy:
        left_s = QUIET_WAIT_S if night.ends_at is None else max(0.0, night.ends_at - time.time())
        require_quiet(
            board,
            [due.target for due in dues],
            wait_s=min(QUIET_WAIT_S, left_s),
            on_wait=terminal.say,
        )
    night.measure(board, dues, FIRST)
    judged = {one.series: one for one in night.judged()}
    again = [due for due in dues if any(one.wants_again for one in _series(night, due, judged))]
    night.measure(board, again, AGAIN)
    bridges = [bridge for due in dues if (bridge := _bridge(night, due, judged, before)) is not None]
    night.measure(board, bridges, BRIDGE)


def _series(night: Night, due: Due, judged: dict[str, Judged]) -> list[Judged]:
    names = [f"{due.item.name}/{due.target.name}/{metric}" for metric in night.metrics]
    return [judged[name] for name in names if name in judged]


def _bridge(night: Night, due: Due, judged: dict[str, Judged], before: dict[str, Look]) -> Due | None:
    """The file of the night before, where both the environment and the file changed."""
    known = due.item.file.artifact
    for one in _series(night, due, judged):
        old, new = before.get(one.series), one.look
        if old is None or new is None or old.board != new.board:
            continue
        if old.environment != new.environment and old.artifact != known.sha256:
            data = night.store.blob(old.artifact)
            artifact = Artifact(old.artifact, old.artifact, "", known.file_format, known.precision, len(data))
            return Due(Item(due.item.name, Exported(artifact, data)), due.target)
    return None


def _say(args: argparse.Namespace, night: Night, judged: Sequence[Judged], paths: Sequence[Path]) -> None:
    if args.json:
        terminal.write_json([nightly_report.row(night.name, one) for one in judged])
        return
    terminal.write(nightly_report.headline(judged))
    for one in judged:
        if one.outcome not in QUIET_OUTCOMES:
            terminal.write(f"  {one.outcome}: {one.series}: {one.text}")
    for reason, series in nightly_report.unmeasured(judged).items():
        terminal.write(f"  unmeasured ({len(series)} series): {reason}")
    if any(one.outcome in BAD for one in judged):
        command = f"boardwise nightly accept NAME --plan {night.plan.name}"
        terminal.write(f"  an intended step is accepted by its series or source: {command}")
    for path in paths:
        terminal.write(f"  {path}")


def _exit(night: Night, judged: Sequence[Judged]) -> Exit:
    """3 for a regression; 4 if no board gave a figure to judge; 1 if some are missing or a model failed."""
    if any(one.outcome in BAD for one in judged):
        return Exit.EXCEEDED
    missing = [one for one in judged if one.outcome == "unmeasured"]
    on_boards = [one for one in judged if not one.series.endswith("/size")]
    if not judged or night.failed:
        return Exit.ERROR
    if on_boards and all(one in missing or _is_invalid(one) for one in on_boards):
        return Exit.UNJUDGED
    return Exit.ERROR if missing else Exit.FINE


def _is_invalid(judged: Judged) -> bool:
    return judged.outcome == "not judged" and judged.look is not None and judged.look.verdict == "invalid"
