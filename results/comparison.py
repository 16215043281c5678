"""Two files compared on one board: ratio of their times with its interval, and a plain sentence.

Both must have been measured in turns over the same agents (:func:`harness.measure.measure_together`), so that
what an agent or a moment did to one it did to the other.  Per agent the difference of the mean logarithms of
the session figures is one observation; the interval and the p-value are those of the paired t-test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from results.errors import ConfigError
from results.records import Interval, Measurement
from results.statistics import CONFIDENCE, agent_logs, judge

LEAST_PAIRS = 3


@dataclass(frozen=True)
class Comparison:
    """How B's time relates to A's.

    Attributes:
        ratio: Time of B over time of A.
        p: Two-sided probability of a difference this clear between equal files.
        pairs: Number of agents in which both were measured.
        reasons: Why the figures are to be taken with care; empty where they are valid.
    """

    ratio: Interval
    p: float
    pairs: int
    reasons: tuple[str, ...] = ()


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
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(shared))
    freedom = len(shared) - 1
    half = float(special.stdtrit(freedom, 0.5 + confidence / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error)) if error > 0 else float(mean == 0)
    reasons = tuple(f"{name}: {reason}" for name, m in (("A", a), ("B", b)) for reason in judge(m).reasons)
    ratio = Interval(math.exp(mean - half), math.exp(mean), math.exp(mean + half))
    return Comparison(ratio, p, len(shared), reasons)


def sentence(comparison: Comparison, a: str = "A", b: str = "B") -> str:
    """The comparison in one sentence, such as ``B is 3.1 % [2.4, 3.8] faster than A; p < 0.001``."""
    ratio = comparison.ratio
    p = "p < 0.001" if comparison.p < 0.001 else f"p = {comparison.p:.2g}"
    if ratio.low <= 1 <= ratio.high:
        low, high = 100 * (ratio.low - 1), 100 * (ratio.high - 1)
        return (
            f"no difference found between {a} and {b}: {b} takes {low:+.1f} to {high:+.1f} % more time; {p}"
        )
    if ratio.value < 1:
        share = (1 - ratio.value, 1 - ratio.high, 1 - ratio.low)
        word = "faster"
    else:
        share = (ratio.value - 1, ratio.low - 1, ratio.high - 1)
        word = "slower"
    value, low, high = (100 * s for s in share)
    return f"{b} is {value:.1f} % [{low:.1f}, {high:.1f}] {word} than {a}; {p}"
