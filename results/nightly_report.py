"""What a night leaves behind: JUnit XML for a CI, Markdown for people, JSON for programs, history as CSV.

Names and reasons may come from strangers' stores and from boards: none of them leaves its cell, its element
or the plan's folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from results.codec import digest, to_json
from results.errors import StoreError
from results.looks import Look
from results.markdown import escape, table
from results.night_texts import remedy
from results.nights import BAD, Judged, Outcome
from results.output import write_whole
from results.printable import printable
from results.table import write_csv
from results.units import show, si_unit

WORST_FIRST: tuple[Outcome, ...] = (
    "regression",
    "slow change",
    "unmeasured",
    "unconfirmed",
    "not judged",
    "improvement",
    "mended",
    "new environment",
    "new board",
    "learning",
    "fine",
)


def write(folder: Path, plan: str, nights: Mapping[str, Sequence[Judged]]) -> list[Path]:
    """Writes the files of the newest night, and the history of all; their paths.

    Links in place of the files are replaced, not followed.

    Args:
        folder: Where the plan's files lie; the newest night gets a folder of its own there.
        plan: Name of the plan.
        nights: All nights, judged, oldest first.

    Raises:
        StoreError: If they cannot be written, or a link stands in place of a folder.
    """
    night, judged = list(nights.items())[-1]
    rows = [row(name, one) for name, each in nights.items() for one in each]
    own = folder / night
    if own.parent != folder or night == "..":
        raise StoreError(f"{night[:80]!r} is no name of a night")
    for path in (folder, own):
        if path.is_symlink():
            raise StoreError(f"{path} is a link; remove it, so that nothing is written elsewhere")
    texts = {
        own / "junit.xml": junit(plan, judged),
        own / "nightly.md": markdown(plan, night, judged),
        own / "nightly.json": json.dumps([row(night, one) for one in judged], indent=2) + "\n",
    }
    for path, text in texts.items():
        write_whole(path, text.encode(errors="replace"))
    write_csv(folder / "history.csv", rows)
    return [*texts, folder / "history.csv"]


# --------------------------------------------------------------------------- JUnit


def junit(plan: str, judged: Sequence[Judged]) -> str:
    """One test case per series: failed for a regression, skipped where nothing could be told."""
    counts = Counter(one.outcome for one in judged)
    suite = ElementTree.Element(
        "testsuite",
        name=f"boardwise nightly {plan}",
        tests=str(len(judged)),
        failures=str(sum(counts[outcome] for outcome in BAD)),
        errors=str(counts["unmeasured"]),
        skipped=str(sum(one.is_skipped for one in judged)),
        time=f"{sum(map(_took_s, judged)):.3f}",
    )
    for one in judged:
        name, _, rest = printable(one.series).partition("/")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"{plan}.{name}",
            name=rest or name,
            time=f"{_took_s(one):.3f}",
        )
        text = printable(one.text if one.text.startswith(one.outcome) else f"{one.outcome}: {one.text}")
        if one.outcome in BAD or one.outcome == "unmeasured":
            kind = "error" if one.outcome == "unmeasured" else "failure"
            ElementTree.SubElement(case, kind, type=one.outcome, message=text).text = _body(plan, one)
        elif one.is_skipped:
            ElementTree.SubElement(case, "skipped", message=text)
        else:
            ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _took_s(judged: Judged) -> float:
    return sum(look.took_s for look in (judged.look, judged.again) if look is not None)


def _body(plan: str, judged: Judged) -> str:
    """Figures, levels and what to do, a line each."""
    metric = judged.series.rpartition("/")[2]
    lines = [judged.series, f"{judged.outcome}: {judged.text}"]
    if judged.before is not None:
        lines.append(f"level before: {show(metric, judged.before)}")
    for title, look in (("tonight", judged.look), ("measured again", judged.again)):
        if look is not None:
            lines.append(f"{title}: {_interval(look)}")
    if judged.look is not None:
        lines.append(f"file: SHA-256 {judged.look.artifact}")
        lines += [f"environment: {key} {value}" for key, value in judged.look.environment.facts]
    if judged.outcome in BAD:
        lines.append(f"what to do: {remedy(judged.series, plan)}")
    return "\n".join(printable(line) for line in lines)


def _interval(look: Look) -> str:
    low, middle, high = (show(look.metric, x) for x in (look.figure.low, look.figure.value, look.figure.high))
    return f"{middle} [{low}, {high}]" + ("" if look.verdict == "valid" else f" ({look.verdict})")


# --------------------------------------------------------------------------- Markdown


def markdown(plan: str, night: str, judged: Sequence[Judged]) -> str:
    """A table, the worst first; what could not be measured, and what to do, once below it."""
    rows = []
    for one in sorted(judged, key=lambda one: (WORST_FIRST.index(one.outcome), one.series)):
        text = "see below" if one.outcome == "unmeasured" else one.text
        figure = "" if one.look is None else _interval(one.look)
        rows.append([one.series, one.outcome, figure, text])
    lines = [f"# {plan}, night {night}", "", headline(judged), ""]
    lines += [table(["series", "outcome", "figure", "what was seen"], rows), ""]
    lines += [
        f"* Not measured ({len(names)} series): {escape(why)}" for why, names in unmeasured(judged).items()
    ]
    lines += [
        f"* {escape(one.series)}: {escape(remedy(one.series, plan))}" for one in judged if one.outcome in BAD
    ]
    lines += ["", "Figures with their 95 % intervals. Shifts are relative to the reference network that is"]
    lines += ["measured in the same turns, except across a change of the environment.", ""]
    return "\n".join(lines)


def unmeasured(judged: Sequence[Judged]) -> dict[str, list[str]]:
    """Series that were not measured, by the reason why."""
    found: dict[str, list[str]] = {}
    for one in judged:
        if one.outcome == "unmeasured":
            found.setdefault(one.text, []).append(one.series)
    return found


def headline(judged: Sequence[Judged]) -> str:
    """How many series there were of each outcome, the worst first."""
    counts = Counter(one.outcome for one in judged)
    known = [f"{counts[outcome]} {outcome}" for outcome in WORST_FIRST if counts[outcome]]
    return f"{len(judged)} series: {', '.join(known)}." if known else "Nothing was measured."


def row(night: str, judged: Judged) -> dict[str, Any]:
    """A judged series as a row of the history CSV, and of the JSON output."""
    one, figure = judged.look, judged.look.figure if judged.look else None
    name, target, metric = [*judged.series.split("/", 2), "", ""][:3]
    is_judged = judged.before is not None
    return {
        "night": night,
        "series": judged.series,
        "name": name,
        "target": target,
        "metric": metric,
        "outcome": judged.outcome,
        "shift": judged.finding.shift if is_judged else None,
        "p": judged.finding.p if is_judged and judged.outcome != "slow change" else None,
        "history_nights": judged.finding.nights,
        "unit": si_unit(metric),
        "before": judged.before,
        "figure": figure.value if figure else None,
        "figure_low": figure.low if figure else None,
        "figure_high": figure.high if figure else None,
        "log_ratio": one.z if one else None,
        "verdict": one.verdict if one else None,
        "artifact_sha256": one.artifact if one else None,
        "environment": digest(to_json(one.environment))[:12] if one else None,
        "text": judged.text,
    }
