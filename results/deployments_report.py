"""The part of a report that says which runtime, how many threads, which precision is best on a board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from results.deployments import Deployed, Factor, board_front, factors, same_network, targets_on
from results.evaluations import History
from results.front import candidates, limits_of, objectives, within
from results.markdown import escape, table
from results.records import Interval, Target
from results.statistics import latency, peak_memory
from results.units import axis_label, factor, score_title

SHOWN_MEMBERS = 12


def deployments(known: History) -> list[str]:
    """One section for every device that has several targets."""
    devices = dict.fromkeys(target.device for target in known.targets)
    return [part for device in devices for part in _device(known, device)]


def _device(known: History, device: str) -> list[str]:
    targets = targets_on(known, device)
    if len(targets) < 2:
        return []
    same = {target: (m, latency(m, 0.5)) for target, m in same_network(known, device).items()}
    times = {target: interval for target, (_, interval) in same.items() if interval is not None}
    front = board_front(known, device)
    header = (
        "deployment,one network: p50 [ms],to the fastest,peak memory [MB],trained,within limits,on the front"
    )
    memory = {target: peak_memory(m) for target, (m, _) in same.items()}
    rows = [
        (label(t), *_time_cells(t, times), _megabytes(memory.get(t)), *_counts(known, t), _count(t, front))
        for t in targets
    ]
    parts = [f"## Which deployment on {device}", *_fastest(times), *_factors(known, times)]
    return [*parts, table(header.split(","), rows), *_front(known, device, front)]


def label(target: Target) -> str:
    """A target's name without its device, such as ``tflite-int8-threads4``."""
    return target.name.removeprefix(f"{target.device}-")


def _fastest(times: Mapping[Target, Interval]) -> list[str]:
    """Which is fastest for one network, and which cannot be told from it."""
    if len(times) < 2:
        return []
    best = min(times, key=lambda target: times[target].value)
    equal = [label(t) for t, i in times.items() if t != best and i.low <= times[best].high]
    text = f"**For one and the same network, {label(best)} is fastest**"
    if equal:
        text += f"; at 95 % it cannot be told from {', '.join(equal)}"
    return [
        f"{text}. That network is a random one of the space with untrained weights, measured on every target "
        "before the search; its score and other networks may decide otherwise."
    ]


def _factors(known: History, times: Mapping[Target, Interval]) -> list[str]:
    """One line for every decision: which value is fastest with all others equal."""
    lines = [_factor(factor) for factor in factors(times)]
    lines += [line for name in ("fp16", "int8") if (line := _cost_in_score(known, name))]
    return ["\n".join(lines)] if lines else []


def _factor(factor: Factor) -> str:
    title = {"runtime": "Which runtime", "threads": "How many threads", "precision": "Which precision"}
    others = []
    for value, ratio in factor.others:
        text = f"{value} takes {ratio.value:.3g} [{ratio.low:.3g}, {ratio.high:.3g}] times as long"
        others.append(text + (", which cannot be told from it" if ratio.low <= 1 else ""))
    return (
        f"- **{title[factor.name]}** (the rest being equal, {factor.pairs} comparisons): "
        f"**{factor.fastest}** is fastest; {'; '.join(others)}"
    )


def _cost_in_score(known: History, precision: str) -> str:
    """What a precision does to the score of the trials that were scored in it."""
    both = [t.accuracy for t in known.trials if {"fp32", precision} <= t.accuracy.keys()]
    if not both:
        return ""
    share = all(scores["fp32"].proportion for scores in both)
    changes = [scores[precision].value - scores["fp32"].value for scores in both]
    mean, least, most = (
        f"{100 * change:+.2f}" if share else f"{change:+.4g}"
        for change in (sum(changes) / len(changes), min(changes), max(changes))
    )
    return (
        f"- **{escape(score_title(known.problem))} in {precision}** against float32, the same weights: "
        f"{mean} {'points ' * share}in the mean of {len(changes)} trials, from {least} to {most}"
    )


def _time_cells(target: Target, times: Mapping[Target, Interval]) -> tuple[str, str]:
    if target not in times:
        return "unknown", "unknown"
    own, least = times[target], min(interval.value for interval in times.values())
    return f"{own.value * 1e3:.4g} [{own.low * 1e3:.4g}, {own.high * 1e3:.4g}]", f"{own.value / least:.2f}"


def _megabytes(peak: Interval | None) -> str:
    return "unknown" if peak is None else f"{peak.value / 1e6:.1f}"


def _counts(known: History, target: Target) -> tuple[int, int]:
    found = candidates(known, target.name)
    return len(found), sum(within(c.evaluation, limits_of(known.problem, target)) for c in found)


def _count(target: Target, front: Sequence[Deployed]) -> int:
    return sum(member.target == target for member in front)


def _front(known: History, device: str, front: Sequence[Deployed]) -> list[str]:
    if not front:
        return [f"No full training is within all limits on {device}, whichever the deployment."]
    costs = objectives(known.problem, front[0].target.name)[1:]
    shares = Counter(label(member.target) for member in front).most_common()
    best = front[0]
    words = ", ".join(f"{name} {count}" for name, count in shares)
    text = (
        f"**Of the {len(front)} candidates on the front of all deployments together: {words}.** The best "
        f"{escape(known.problem.metric)} within the limits is that of trial "
        f"{best.candidate.known.trial.number} on {label(best.target)}."
    )
    rows = [
        (
            m.candidate.known.trial.number,
            label(m.target),
            *(figure_cell(f, s) for f, s in zip(m.candidate.figures, (1.0, *_scales(known, m)), strict=True)),
            "yes" if m.candidate.confirmed else "no",
        )
        for m in front[:SHOWN_MEMBERS]
    ]
    columns = (
        "trial",
        "deployment",
        score_title(known.problem, "validation"),
        *(axis_label(c.name) for c in costs),
    )
    return [text, table((*columns, "confirmed"), rows)]


def _scales(known: History, member: Deployed) -> list[float]:
    return [factor(metric.name) for metric in objectives(known.problem, member.target.name)[1:]]


def figure_cell(interval: Interval, scale: float) -> str:
    """A figure with its interval, to be shown."""
    if not interval.is_known:
        return f"{interval.value * scale:.4g} (no interval)"
    return f"{interval.value * scale:.4g} [{interval.low * scale:.4g}, {interval.high * scale:.4g}]"
