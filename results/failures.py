"""Trials that failed, by reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from results.evaluations import History


@dataclass
class Failure:
    """What some trials failed for.

    Attributes:
        reason: In one line, without what differs from trial to trial.
        example: What was said of the first of them, in full.
        numbers: Of the trials.
    """

    reason: str
    example: str
    numbers: list[int]


def failures(known: History) -> list[Failure]:
    """Reasons why trials failed, were not measured, or were refuted, from the most frequent on."""
    said = [(t, t.error or "no reason stored") for t in known.trials if t.state in ("failed", "unmeasured")]
    said += [(t, text) for t in known.trials for text in t.refuted.values()]
    found: dict[str, Failure] = {}
    for trial, text in said:
        reason = _reason(text)
        failure = found.setdefault(reason, Failure(reason, _without_name(text), []))
        failure.numbers.append(trial.trial.number)
    return sorted(found.values(), key=lambda failure: -len(failure.numbers))


def _reason(text: str) -> str:
    """First and last line of a message, which quote what a user's code raised, without figures."""
    lines = _without_name(text).strip().splitlines() or ["no reason stored"]
    line = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1].strip()}"
    return re.sub(r"(?<![A-Za-z_])\d+(\.\d+)?(e[+-]?\d+)?", "N", line)


def _without_name(text: str) -> str:
    """A message without the candidate's name: the hash of a file, or the number of a trial."""
    return re.sub(r"^([0-9a-f]{4,64}|trial \d+): ", "", text)
