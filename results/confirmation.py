"""What of a run's fronts is not confirmed, and why."""

from __future__ import annotations

from results.across_targets import front_across_targets
from results.evaluations import History
from results.front import front
from results.records import Target
from results.statistics import judge


def unconfirmed(known: History) -> dict[str, str]:
    """Why the front by the values is not confirmed in whole, by target name; empty where all are.

    The front over all targets counts as well, where it was asked for.
    """
    found: dict[str, str] = {}
    for target in known.targets:
        members = [m.candidate for m in front(known, target.name) if m.nominal]
        if any(not candidate.confirmed for candidate in members):
            found[target.name] = why(known, target)
        elif members and all(judge(c.measurement).state == "invalid" for c in members):
            reasons = judge(members[0].measurement).reasons
            found[target.name] = f"every confirmation is invalid ({'; '.join(reasons)})"
    for compromise in front_across_targets(known):
        missing = compromise.evaluation.measurements.keys() - compromise.known.confirmed.keys()
        if compromise.nominal:
            found |= {name: why(known, known.target(name)) for name in missing}
    return {t.name: found[t.name] for t in known.targets if t.name in found}


def why(known: History, target: Target) -> str:
    """Why a member of the front on a target, measured before its training, was not measured again."""
    return known.refused.get(target.device, "it was not measured again with trained weights")


def frontless(known: History) -> list[Target]:
    """Targets on which no trained candidate is within all limits.

    Where trials choose one target of a device, it is enough that one of the device's has a front.
    """
    found = [target for target in known.targets if front(known, target.name)]
    devices = {target.device for target in found if _chosen(known, target.device)}
    return [t for t in known.targets if t not in found and t.device not in devices]


def _chosen(known: History, device: str) -> bool:
    return any(f"deployment.{device}" in trial.options for trial in known.trials)
