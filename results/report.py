"""The report of a run: what was searched, what was found, how it was measured, and what it does not say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results import energy, loading, scores, shapes, untrained
from results.across_targets_report import across_targets
from results.confirmation import unconfirmed
from results.deployments_report import deployments
from results.empty_front import closest, why_empty
from results.evaluations import History, TrialRecords, history
from results.failures import failures
from results.front import Candidate, candidates, limits_of
from results.limits import broken, sentence
from results.markdown import code, escape, table
from results.output import write_whole
from results.printable import printable_lines
from results.records import Limit, Metric, Option, Problem, Target
from results.relaxation_report import relaxation
from results.speedups import speedups
from results.statistics import judge
from results.store import Run
from results.table import describe, iso, pareto_table, score_cell
from results.units import score_title, show, words
from results.weight_sharing import weight_sharing

SHOWN_MEMBERS = 12
SHOWN_CLOSEST = 5

_READING = """
- Fronts are per target, unless they say that they are of several. Figures of different targets, environments
  or origins are never ranked together.
- Intervals are 95 %: of latency over separate processes, of the task's metric over the examples (Wilson for a
  share, BCa bootstrap for others). What has no interval is never certain. They do not contain the
  spread between trainings with other seeds, or between two boards of one model.
- The search saw the validation split only, and the front is chosen by it; the test split was scored
  afterwards and plays no part in the choice.
- The *certain* front holds what nothing can dominate within the intervals, the *possible* front what nothing
  dominates for certain. The best of many noisy figures is optimistic; hence the confirmation.
"""


def write_report(run: Run, folder: Path) -> Path:
    """Writes ``report.md`` beside the CSVs and pictures; its path.

    Raises:
        StoreError: If the file cannot be written.
    """
    path = folder / "report.md"
    bodies = ([r.body for r in shapes.records(run, kind)] for kind in ("finished", "pretrained"))
    text = report(history(run), *bodies, sharing=weight_sharing(run))
    write_whole(path, printable_lines(text).encode())
    return path


def report(
    known: History,
    finished: Sequence[Mapping[str, Any]] = (),
    pretrained: Sequence[Mapping[str, Any]] = (),
    *,
    sharing: Sequence[str] = (),
) -> str:
    """The report as Markdown, from records that were read already."""
    sections = [f"# {escape(known.name)}", *_searched(known), *_counts(known, finished)]
    missing = unconfirmed(known)
    for target in known.targets:
        sections += _target(known, target, missing.get(target.name))
    sections += [*across_targets(known), *deployments(known), *relaxation(known, pretrained)]
    sections += [*speedups(known, pretrained), *sharing]
    return (
        "\n\n".join([*sections, *_models(known), *_failures(known), *_reading(known), *_provenance(known)])
        + "\n"
    )


# --------------------------------------------------------------------------- what was searched


def _goal(objective: Metric, problem: Problem) -> str:
    """An objective in words, with its target where there is another of that name."""
    same = sum(other.name == objective.name for other in problem.objectives)
    where = f" on {' '.join(objective.targets)}" if same > 1 else ""
    name = problem.metric if objective == problem.objectives[0] else words(objective.name)
    return f"{'most' if objective.maximise else 'least'} {name}{where}"


def _searched(known: History) -> list[str]:
    config = known.config
    problem, goals = known.problem, [_goal(o, known.problem) for o in known.problem.objectives]
    task, space, strategy = (config.get(name, {}) for name in ("task", "space", "strategy"))
    limits = [f"{_limit(x)} on {' '.join(x.metric.targets) or 'the network'}" for x in problem.limits]
    fidelity = config.get("fidelity", {})
    lines = [
        f"- **Task**: {escape(task.get('name', 'unknown'))}, {escape(problem.metric)} "
        f"({problem.better} is better)",
        f"- **Space**: {escape(space.get('name', 'unknown'))}; **strategy**: "
        f"{escape(strategy.get('name', 'unknown'))}, seed {escape(config.get('seed'))}",
        f"- **Training**: {escape(fidelity.get('epochs'))} epochs, "
        f"{fidelity.get('subset', 1.0):.0%} of the data",
        f"- **Wanted**: {escape(', '.join(goals))}",
        f"- **Limits**: {escape('; '.join(limits) or 'none')}",
        f"- **Targets**: {', '.join(t.name for t in known.targets)}",
    ]
    return ["## What was searched", "\n".join(lines)]


def _limit(limit: Limit) -> str:
    return f"{words(limit.metric.name)} ≤ {show(limit.metric.name, limit.upper)}"


def _counts(known: History, finished: Sequence[Mapping[str, Any]]) -> list[str]:
    states = Counter(t.state for t in known.trials)
    rows = [
        ("complete", "trained and measured"),
        ("screened", "measured to choose what is worth a training"),
        ("infeasible", "measured to break a limit for certain, so never trained"),
        ("failed", "could not be built, run or trained; see below"),
        ("unmeasured", "the board was away"),
        ("pending", "not finished"),
    ]
    counted = [(states[s], s, text) for s, text in rows if states[s]]
    sections = ["## Trials", table(("trials", "state", "meaning"), counted), *_broken(known)]
    ended = [f"The search ended early: {escape(body['ended'])}." for body in finished if "ended" in body]
    return [*sections, *ended, *_saved(known), *_time(finished)]


def _broken(known: History) -> list[str]:
    """Which limits ruled trials out before they were trained; one trial may break several."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for trial in known.trials:
        if trial.state == "infeasible":
            evaluation = trial.evaluation()
            for limit in broken(evaluation, known.problem.limits):
                name = f"{_limit(limit)} on {' '.join(limit.metric.targets) or 'the network'}"
                counts[name] += 1
                first.setdefault(name, f"trial {trial.trial.number}: {sentence(evaluation, limit)}")
    rows = [(number, name, first[name]) for name, number in counts.most_common()]
    return [table(("infeasible", "limit", "the first of them"), rows)] if rows else []


def _saved(known: History) -> list[str]:
    saved = sum(
        t.state == "infeasible" and not t.accuracy and not t.trial.proposal.screen_only for t in known.trials
    )
    times = [t.training_s for t in known.trials if t.accuracy and t.training_s]
    if not times:
        return []
    text = f"Measuring first saved **{saved} of {saved + len(times)} trainings**"
    if saved:
        minutes = saved * sum(times) / len(times) / 60
        text += f", about {minutes:.1f} minutes of CPU time at the mean of the others"
    return [text + "."]


def _time(finished: Sequence[Mapping[str, Any]]) -> list[str]:
    walls = [float(body["wall_s"]) for body in finished if "wall_s" in body]
    return [f"The search took {sum(walls) / 60:.1f} minutes of wall time."] if walls else []


# --------------------------------------------------------------------------- per target


def _target(known: History, target: Target, not_confirmed: str | None) -> list[str]:
    found = candidates(known, target.name)
    frame = pareto_table(known, target.name)
    here = frame[frame["front"] != "other environment"]
    sections = [f"## {target.name}"]
    if limits := limits_of(known.problem, target):
        sections.append("Limits: " + escape("; ".join(map(_limit, limits))) + ".")
    if here.empty:
        sections += _none_within(known, target)
    else:
        sections += [f"![Front on {target.name}](front_{target.name}.png)", *_members(known, here, target)]
    if not_confirmed:
        sections.append(
            f"**Not confirmed**: {escape(not_confirmed)}. Go on: `boardwise resume {known.name}`."
        )
    elsewhere = len(frame) - len(here)
    if elsewhere:
        sections.append(
            f"Measured in another environment (another kernel, runtime version, unit or origin): {elsewhere} "
            "more. They are not ranked with these; the CSV lists them as `other environment`."
        )
    return [*sections, *_measured(found, here, untrained.note(known, target))]


def _members(known: History, here: pd.DataFrame, target: Target) -> list[str]:
    short = here[here["nominal"]].head(SHOWN_MEMBERS)
    place = f"deployment.{target.device}"  # it stands in the heading
    options = {t.trial.number: {k: v for k, v in t.options.items() if k != place} for t in known.trials}
    common = _common([options[number] for number in short["trial"]])
    titles = [score_title(known.problem, where) for where in ("validation", "test")]
    header = ("trial", "front", *titles, "p50 [ms]", "p90 [ms]", "size [kB]", "confirmed", "verdict")
    rows = [
        (
            row["trial"],
            row["front"],
            score_cell(row, known.problem.metric, "validation"),
            score_cell(row, known.problem.metric, "test"),
            _with_interval(row, "latency_p50_ms"),
            _with_interval(row, "latency_p90_ms"),
            f"{row['size_bytes'] / 1e3:.1f}",
            "yes" if row["confirmed"] else "no",
            row["verdict"],
            describe({k: v for k, v in options[row["trial"]].items() if k not in common}),
        )
        for row in short.to_dict("records")
    ]
    confirmed = int(here["confirmed"].sum())
    csv = f"pareto_{target.name}.csv"
    more = len(here) > here["nominal"].sum()
    note = (
        f"{len(short)} of {len(here)} members: the front by the values. "
        + ("The others cannot be told from it at 95 %; all" if more else "All")
        + f" are in [{csv}]({csv}). {confirmed} of {len(here)} are confirmed, that is measured again "
        "with trained weights in fresh processes; only confirmed figures are final."
    )
    shared = [f"All of them have {escape(describe(common))}."] if common else []
    shown = [t for t in known.trials if t.trial.number in set(here["trial"])]
    return [
        table((*header, "architecture"), rows),
        *shared,
        note,
        *_missing_scores(shown, target.precision),
    ]


def _missing_scores(members: Sequence[TrialRecords], precision: str) -> list[str]:
    """Why members of a front have no test score, and why scores have no interval."""
    untested: dict[str, list[int]] = {}
    unbounded: dict[str, list[int]] = {}
    for trial in members:
        if precision in trial.undefined:
            untested.setdefault(escape(_last_line(trial.undefined[precision])), []).append(trial.trial.number)
        score = trial.tested.get(precision) or trial.accuracy.get(precision)
        if reason := "" if score is None else scores.why_no_interval(score):
            unbounded.setdefault(escape(reason), []).append(trial.trial.number)
    texts = [(f"No test score of {_trials(n)}: {r}.", n) for r, n in untested.items()]
    texts += [(f"No interval of the score of {_trials(n)}: {r}.", n) for r, n in unbounded.items()]
    return [text for text, _ in sorted(texts, key=lambda item: item[1])]


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _last_line(text: str) -> str:
    """What an error says in the end, without the hash of the candidate."""
    return re.sub(r"^[0-9a-f]{4,64}: ", "", text.strip().splitlines()[-1]).rstrip(".")


def _common(architectures: Sequence[Mapping[str, Option]]) -> dict[str, Option]:
    """Options that several architectures share, so that a table need not repeat them."""
    if len(architectures) < 2:
        return {}
    first, *others = architectures
    return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def _with_interval(row: Mapping[Any, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or value != value:
        return "unknown"
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _none_within(known: History, target: Target) -> list[str]:
    text = f"**The front is empty**: {why_empty(known, target)}."
    rows = [
        (each.known.trial.number, each.breaks, f"{each.violation:.3g}", describe(each.known.options))
        for each in closest(known, target, SHOWN_CLOSEST)
    ]
    if not rows:
        return [text]
    header = ("trial", "breaks", "sum of relative overshoots", "architecture")
    return [text + " The closest to its limits:", table(header, rows)]


def _measured(found: Sequence[Candidate], here: pd.DataFrame, before_training: str) -> list[str]:
    """What ran, where, and in what state the board was."""
    if not found:
        return []
    newest = max(found, key=lambda c: max(s.started_at for s in c.measurement.sessions)).measurement
    ran_on = newest.ran_on
    verdicts = Counter(judge(c.measurement).state for c in found)
    reasons = Counter(reason.split(" (")[0] for c in found for reason in judge(c.measurement).reasons)
    lines = [
        f"- **Ran**: {escape(ran_on.runtime)} {escape(ran_on.version)}, {escape(newest.artifact.precision)}, "
        f"threads: {ran_on.threads}, provider: {escape(ran_on.provider)}; origin: **{newest.origin}**",
        f"- **Environment** `{newest.environment.fingerprint[:12]}`: "
        + escape(", ".join(f"{k} {v}" for k, v in newest.environment.facts)),
        f"- **Verdicts**: {', '.join(f'{n} {state}' for state, n in sorted(verdicts.items(), reverse=True))}",
    ]
    if invalid := loading.note(newest):
        lines.append(f"- **Loading**: {invalid}")
    if before_training:
        lines.append(f"- **Untrained and trained files**: {before_training}")
    if reasons:
        shown = "; ".join(f"{text} ({n})" for text, n in reasons.most_common(6))
        lines.append(f"- **Reasons**: {escape(shown)}")
    conditions = [text for text in here["conditions"].unique() if text][:3]
    if conditions:
        lines.append("- **Conditions** on the front: " + escape("; ".join(conditions)))
    return ["\n".join(lines)]


# --------------------------------------------------------------------------- the rest


def _models(known: History) -> list[str]:
    normalisation = known.config.get("task", {}).get("normalisation")
    if not normalisation:
        return []
    mean, std = (", ".join(f"{x:.6g}" for x in normalisation[name]) for name in ("mean", "std"))
    return [
        "## The models",
        f"Inputs: `(stored value - mean) / std`, per channel: mean {mean}, std {std}. The winners' files are "
        "in `models/`, with the names of their classes and how to use them in `models/README.md`.",
    ]


def _failures(known: History) -> list[str]:
    rows = []
    for failure in failures(known):
        numbers = ", ".join(map(str, failure.numbers[:6])) + (" ..." if len(failure.numbers) > 6 else "")
        rows.append((len(failure.numbers), failure.reason, numbers))
    return ["## Failures by reason", table(("trials", "reason", "numbers"), rows)] if rows else []


def _reading(known: History) -> list[str]:
    measured = [m for t in known.trials for m in (*t.measurements.values(), *t.confirmed.values())]
    origins = sorted({m.origin for m in measured})
    notes = {
        "replayed": "- **Replayed** figures come from stored measurements or a published table; nothing ran.",
        "modelled": "- **Modelled** figures are predictions; no device produced them.",
    }
    shown = [notes[origin] for origin in origins if origin in notes]
    return [
        "## How to read this",
        "\n".join(
            [
                _READING.strip(),
                f"- Energy: {escape(energy.summary(measured))}.",
                *shown,
            ]
        ),
    ]


def _provenance(known: History) -> list[str]:
    config = known.config
    times = [t.asked_at for t in known.trials] + [t.told_at for t in known.trials if t.told_at is not None]
    space = str(config.get("space", {}).get("fingerprint", "unknown"))
    lines = [
        f"- Boardwise {escape(config.get('version', 'unknown'))} on {escape(config.get('host', 'unknown'))}",
        f"- Space {code(space[:12])}, seed {escape(config.get('seed'))}",
    ]
    if times:
        lines.append(f"- From {iso(min(times))} to {iso(max(times))}")
    credits = config.get("task", {}).get("credits") or []
    lines += [f"- Data: {escape(text)}" for text in ([credits] if isinstance(credits, str) else credits)]
    return ["## Provenance", "\n".join(lines)]
