"""What a night leaves behind: JUnit XML for a CI, Markdown for people, JSON for programs, history as CSV."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from results.errors import StoreError
from results.nights import BAD, Judged, Outcome, row
from results.table import write_csv

WORST_FIRST: tuple[Outcome, ...] = (
    "regression",
    "slow change",
    "unmeasured",
    "unconfirmed",
    "not judged",
    "new environment",
    "learning",
    "fine",
)


def write(folder: Path, plan: str, nights: Mapping[str, Sequence[Judged]]) -> list[Path]:
    """Writes the files of the newest night, and the history of all; their paths.

    Args:
        folder: Where the plan's files lie; the newest night gets a folder of its own there.
        plan: Name of the plan.
        nights: All nights, judged, oldest first.

    Raises:
        StoreError: If they cannot be written.
    """
    night, judged = list(nights.items())[-1]
    rows = [row(name, one) for name, each in nights.items() for one in each]
    own = folder / night
    texts = {
        own / "junit.xml": junit(plan, judged),
        own / "nightly.md": markdown(plan, night, judged),
        own / "nightly.json": json.dumps([row(night, one) for one in judged], indent=2) + "\n",
    }
    try:
        own.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write to {own}: {error.strerror}") from error
    write_csv(folder / "history.csv", rows)
    return [*texts, folder / "history.csv"]


def junit(plan: str, judged: Sequence[Judged]) -> str:
    """One test case per series: failed for a regression, skipped where nothing could be told."""
    counts = Counter(one.outcome for one in judged)
    failures = sum(counts[outcome] for outcome in BAD)
    suite = ElementTree.Element(
        "testsuite",
        name=f"boardwise nightly {plan}",
        tests=str(len(judged)),
        failures=str(failures),
        errors=str(counts["unmeasured"]),
        skipped=str(counts["learning"] + counts["not judged"] + counts["new environment"]),
    )
    for one in judged:
        name, _, rest = one.series.partition("/")
        case = ElementTree.SubElement(suite, "testcase", classname=f"{plan}.{name}", name=rest or name)
        kind = {"regression": "failure", "slow change": "failure", "unmeasured": "error"}.get(one.outcome)
        if kind:
            ElementTree.SubElement(case, kind, message=f"{one.outcome}: {one.text}")
        elif one.outcome in ("learning", "not judged", "new environment"):
            ElementTree.SubElement(case, "skipped", message=one.text)
        else:
            ElementTree.SubElement(case, "system-out").text = f"{one.outcome}: {one.text}"
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def markdown(plan: str, night: str, judged: Sequence[Judged]) -> str:
    """A table, the worst first."""
    lines = [f"# {plan}, night {night}", "", headline(judged), ""]
    lines += ["| series | outcome | figure | what was seen |", "| --- | --- | --- | --- |"]
    for one in sorted(judged, key=lambda one: (WORST_FIRST.index(one.outcome), one.series)):
        figure = ""
        if one.look is not None:
            f = one.look.figure
            figure = f"{f.value:.4g} [{f.low:.4g}, {f.high:.4g}]"
            figure += "" if one.look.verdict == "valid" else f" ({one.look.verdict})"
        lines.append(f"| {one.series} | {one.outcome} | {figure} | {one.text.replace('|', '/')} |")
    note = (
        "Figures in SI units with their 95 % intervals. Shifts are relative to the reference network that is"
    )
    lines += ["", f"{note} measured in the same turns.", ""]
    return "\n".join(lines)


def headline(judged: Sequence[Judged]) -> str:
    """How many series there were of each outcome, the worst first."""
    counts = Counter(one.outcome for one in judged)
    known = [f"{counts[outcome]} {outcome}" for outcome in WORST_FIRST if counts[outcome]]
    return f"{len(judged)} series: {', '.join(known)}." if known else "Nothing was measured."
