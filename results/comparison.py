"""Two files compared on one board: ratio of their times with its interval, and a plain sentence.

Both must have been measured in turns over the same agents (:func:`harness.measure.measure_together`), so that
what an agent or a moment did to one it did to the other.  Per agent the difference of the mean logarithms of
the session figures is one observation; the interval and the p-value are those of the paired t-test.

An interval that contains 1 says only that no difference was found.  It is called no difference where all of
it lies within a stated band around 1 (equivalence, Schuirmann 1987; his two tests at 5 % take the 90 %
interval, so this one is stricter), and otherwise it cannot be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from results.errors import ConfigError
from results.records import Interval, Measurement
from results.statistics import CONFIDENCE, agent_logs, judge

LEAST_PAIRS = 3

SAME = 0.02
"""Two files are called equal where the whole interval of the ratio lies within this of 1."""

MOST_AGENTS = 100
"""What more agents than these would tell is not worth the night that they take."""

Verdict = Literal["different", "same", "cannot tell"]


@dataclass(frozen=True)
class Comparison:
    """How B's time relates to A's.

    Attributes:
        ratio: Time of B over time of A.
        p: Two-sided probability of a difference this clear between equal files.
        pairs: Number of agents in which both were measured.
        reasons: Why the figures are to be taken with care; empty where they are valid.
        spread: Standard deviation of the log of the ratio between agents.
        invalid: Whether the figures of one of them may not be trusted at all.
    """

    ratio: Interval
    p: float
    pairs: int
    reasons: tuple[str, ...] = ()
    spread: float = 0.0
    invalid: bool = False

    @property
    def verdict(self) -> Verdict:
        """Whether they differ, are the same within :data:`SAME`, or neither can be told."""
        if self.invalid:
            return "cannot tell"
        if not self.ratio.low <= 1 <= self.ratio.high:
            return "different"
        within = self.ratio.low >= 1 / (1 + SAME) and self.ratio.high <= 1 + SAME
        return "same" if within else "cannot tell"


def compare(
    a: Measurement, b: Measurement, quantile: float = 0.5, confidence: float = CONFIDENCE
) -> Comparison:
    """Compares the times of two artifacts.

    Args:
        a: What is compared with.
        b: What is compared.
        quantile: Of the runs of a session.
        confidence: Of the interval.

    Raises:
        ConfigError: If they were not measured in turns on one target, or under one environment.
    """
    if a.target != b.target or a.environment != b.environment:
        raise ConfigError(f"{a.target.name} and {b.target.name}: only figures of one target compare")
    of_a, of_b = agent_logs(a, quantile), agent_logs(b, quantile)
    shared = sorted(set(of_a) & set(of_b))
    if len(shared) < LEAST_PAIRS:
        raise ConfigError(f"a comparison needs {LEAST_PAIRS} agents that measured both, got {len(shared)}")
    differences = np.array([of_b[agent] - of_a[agent] for agent in shared])
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    error = spread / math.sqrt(len(shared))
    freedom = len(shared) - 1
    half = float(special.stdtrit(freedom, 0.5 + confidence / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error)) if error > 0 else float(mean == 0)
    verdicts = {"A": judge(a), "B": judge(b)}
    reasons = tuple(f"{name}: {reason}" for name, found in verdicts.items() for reason in found.reasons)
    invalid = any(found.state == "invalid" for found in verdicts.values())
    ratio = Interval(math.exp(mean - half), math.exp(mean), math.exp(mean + half))
    return Comparison(ratio, p, len(shared), reasons, spread, invalid)


def agents_needed(comparison: Comparison) -> int | None:
    """Agents with which :data:`SAME` could be told for certain, if they differ as those did; an estimate.

    So many that the interval is half as wide as the band: then it leaves 1 out or lies within the band.
    None where :data:`MOST_AGENTS` are too few.
    """
    for agents in range(LEAST_PAIRS, MOST_AGENTS + 1):
        if comparison.spread <= _spread_allowed(agents):
            return agents
    return None


def _spread_allowed(agents: int) -> float:
    """Spread between so many agents with which the interval is half as wide as the band."""
    t = float(special.stdtrit(agents - 1, 0.5 + CONFIDENCE / 2))
    return math.log(1 + SAME) / 2 * math.sqrt(agents) / t


def sentence(comparison: Comparison, a: str = "A", b: str = "B") -> str:
    """The comparison in plain words, such as ``B is 3.1 % [2.4, 3.8] faster than A; p < 0.001``."""
    ratio, verdict = comparison.ratio, comparison.verdict
    p = "p < 0.001" if comparison.p < 0.001 else f"p = {comparison.p:.2g}"
    between = f"{b} takes from {_more(ratio.low)} to {_more(ratio.high)} (95 %); {p}"
    if verdict == "cannot tell":
        return f"cannot tell {a} and {b} apart, nor call them equal: {between}. {_remedy(comparison)}"
    if verdict == "same":
        return f"no difference of more than {100 * SAME:.0f} % between {a} and {b}: {between}"
    if ratio.value >= 2:
        return f"{b} takes {ratio.value:.2g} [{ratio.low:.2g}, {ratio.high:.2g}] times as long as {a}; {p}"
    if ratio.value < 1:
        share = (1 - ratio.value, 1 - ratio.high, 1 - ratio.low)
        word = "faster"
    else:
        share = (ratio.value - 1, ratio.low - 1, ratio.high - 1)
        word = "slower"
    value, low, high = (100 * s for s in share)
    return f"{b} is {value:.1f} % [{low:.1f}, {high:.1f}] {word} than {a}; {p}"


def _more(ratio: float) -> str:
    """A ratio of times in words; a share beyond twice as much says little."""
    if ratio < 1:
        return f"{100 * (1 - ratio):.1f} % less time"
    return f"{100 * (ratio - 1):.1f} % more time" if ratio < 2 else f"{ratio:.1f} times as much"


def _remedy(comparison: Comparison) -> str:
    if comparison.invalid:
        return "The measurements are invalid; mend what is said below and measure again"
    needed, allowed = agents_needed(comparison), _spread_allowed(comparison.pairs)
    agents = (
        f"more than {MOST_AGENTS} agents" if needed is None else f"about {needed} agents (--agents {needed})"
    )
    return (
        f"To tell {100 * SAME:.0f} % it needs {agents}, or a quieter board: the difference varies by "
        f"{100 * comparison.spread:.2g} % between agents, and {comparison.pairs} of them allow for "
        f"{100 * allowed:.2g} % (estimated)"
    )
