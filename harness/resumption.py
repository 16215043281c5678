"""Going on with a run: its study and space as they were, and whether what lies outside its store still is.

Of the task's data and the user's own code a run stores hashes when it begins, of each trial's network one
when it is built.  What no longer matches is named and refused: figures of two versions in one table, or model
files that are not what was measured, would be wrong.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import space_of, task_of
from harness.file_metadata import FILE_METADATA
from harness.study import Named, Study, study_of
from results.codec import digest, from_json, to_json
from results.errors import ArchitectureError, ConfigError
from results.records import Architecture, Target, Trial
from results.store import Run
from search.code_hashes import changed, code_of
from search.network import Network
from search.space import SearchSpace
from search.task_hashes import TaskHashes
from search.tasks import Task

BEGUN_WITH = "begun_with"
"""Where the configuration of a run has its hashes; runs of earlier versions have none."""

MOST_ORDERS = 6000
"""Orders of keys that are tried for a run whose store has them sorted: those of seven lists."""


def stored_study(run: Run, path: Path) -> Study:
    """The study of a run, its targets in the order in which they were at its beginning.

    Args:
        run: The run.
        path: Where its file would be, for messages.

    Raises:
        ConfigError: If this version does not know such a study.
    """
    study = study_of(run.config["study"], path)
    targets = tuple(from_json(Target, target) for target in run.config["targets"])
    return replace(study, targets=targets) if set(targets) == set(study.targets) else study


def stored_space(run: Run, study: Study, task: Task) -> tuple[Study, SearchSpace]:
    """The space of a run, and the study with its keys in the order that gives this space.

    Decisions follow the order of keys.  Earlier versions stored keys sorted: of such a run, orders are tried
    until one gives the fingerprint that the run began with.  If none does, the space is what it is.
    """
    wanted = run.config["space"]["fingerprint"]
    space = space_of(study, task)
    if space.fingerprint != wanted and BEGUN_WITH not in run.config:
        for other in itertools.islice(_reordered(study), MOST_ORDERS):
            found = space_of(other, task)
            if found.fingerprint == wanted:
                return other, found
    return study, space


def _reordered(study: Study) -> Iterator[Study]:
    """The study with the keys of all tables under ``[space]`` in every order."""
    choices, options = study.choices, study.space.options
    plain = {key: value for key, value in options.items() if not isinstance(value, list | Mapping)}
    for chosen in _orders({key: value for key, value in options.items() if key not in plain}):
        for devices in itertools.permutations(choices.devices):
            for training in itertools.permutations(choices.training.items()):
                yield replace(
                    study,
                    space=Named(study.space.name, {**plain, **chosen}),
                    choices=replace(choices, devices=devices, training=dict(training)),
                )


def _orders(value: Any) -> Iterator[Any]:
    """A value with the keys of all tables in it in every order; first as it is."""
    if not isinstance(value, Mapping):
        yield value
        return
    for keys in itertools.permutations(value):
        for values in itertools.product(*(_orders(value[key]) for key in keys)):
            yield dict(zip(keys, values, strict=True))


# --------------------------------------------------------------------------- is it still the same?


def begun_with(study: Study, task: Task, space: SearchSpace) -> dict[str, Any]:
    """What :func:`check_unchanged` compares, as a JSON value."""
    return {
        "task": to_json(TaskHashes.of(study.task.name, task)),
        "space": code_of(study.space.name),
        "decisions": {decision.name: list(decision.options) for decision in space.decisions},
    }


def network_hashes(network: Network) -> dict[str, str]:
    """Of a network: its graph, and the names of its layers, by which weights are stored."""
    return {"graph": network.fingerprint, "names": digest([node.name for node in network.nodes])}


def check_unchanged(run: Run, study: Study, task: Task, space: SearchSpace) -> list[str]:
    """What is worth a note about a run whose task and networks are what they were.

    Raises:
        ConfigError: If they are not; names what changed, since when, and the remedy.
    """
    notes = _check_task(run, study, task)
    begun = run.config.get(BEGUN_WITH)
    edited = changed(begun["space"]) if begun else {}
    if space.fingerprint != run.config["space"]["fingerprint"]:
        what = f"the space is not the one that it began in{_decisions_changed(begun, space)}{_named(edited)}"
        raise _refusal(run, what, edited)
    others = _other_networks(run, study, space)
    if others:
        many = f"{', '.join(others[:5])}{f' and {len(others) - 5} more' if len(others) > 5 else ''}"
        raise _refusal(
            run, f"other networks are built now than were measured: {many}{_named(edited)}", edited
        )
    if edited:
        notes.append(
            f"every network is still what was measured, but changed since the run began{_named(edited)}"
        )
    return notes


def task_hashes(run: Run) -> TaskHashes | None:
    """What the task of a run was when it began; None where an earlier version began it."""
    begun = run.config.get(BEGUN_WITH)
    return from_json(TaskHashes, begun["task"]) if begun else None


def _check_task(run: Run, study: Study, task: Task) -> list[str]:
    hashes = task_hashes(run)
    if hashes is None:
        return ["an earlier version began this run: whether its task is what it was cannot be checked"]
    edited, parts = hashes.edited(), hashes.other_splits(task)
    if edited:
        what = f"its task is another one, whose scores cannot be compared with those so far{_named(edited)}"
        raise _refusal(run, what, edited)
    names = json.loads(run.config.get(FILE_METADATA, {}).get("classes", "null"))
    if names is not None and names != list(task.class_names):
        what = f"the classes of task {study.task.name!r} were {names} and are {list(task.class_names)}"
        raise _refusal(run, what, [study.task.name])
    if parts and hashes.code and task_of(study).splits().hashes() != task.splits().hashes():
        return [f"data() of {study.task.name} gives other arrays each time: scores are of different images"]
    if parts:
        what = f"the data of task {study.task.name!r} is not what it was: {', '.join(parts)} changed"
        raise _refusal(run, what, [study.task.name])
    return []


def _refusal(run: Run, what: str, files: Iterable[str]) -> ConfigError:
    saved = [
        f"{file} was last saved {_at(Path(file).stat().st_mtime)}" for file in files if Path(file).exists()
    ]
    when = "; ".join([f"the run began {_at(run.begun_at)}", *saved])
    versions = (run.config.get("version", "unknown"), version("boardwise"))
    by = f", with Boardwise {versions[0]}; this is {versions[1]}" if versions[0] != versions[1] else ""
    return ConfigError(
        f"run {run.name!r} cannot go on: {what} ({when}{by}). Nothing was written. Put back what changed, or "
        "begin a new run"
    )


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _named(edited: Mapping[str, list[str]]) -> str:
    return "".join(f"; {file}: {', '.join(names)}" for file, names in edited.items())


def _decisions_changed(begun: Mapping[str, Any] | None, space: SearchSpace) -> str:
    if begun is None:
        return ""
    before: Mapping[str, Any] = begun["decisions"]
    now = {decision.name: list(decision.options) for decision in space.decisions}
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            had, has = (str(each.get(name, "missing")) for each in (before, now))
            return f": decision {name!r} was {had} and is {has}"
    return ": its name, its settings, or when and in which order decisions apply changed"


def _other_networks(run: Run, study: Study, space: SearchSpace) -> list[str]:
    """What the run measured of networks that are others now."""
    asked = (from_json(Trial, record.body["trial"]) for record in run.records("asked"))
    architectures = {str(trial.number): trial.proposal.architecture for trial in asked}
    found: dict[Architecture, Mapping[str, str]] = {}
    others = []
    for record in run.records("built"):
        architecture = architectures[record.key]
        if architecture not in found:
            found[architecture] = _hashes_now(space, architecture)
        if _differ(record.body, found[architecture]):
            others.append(f"trial {record.key}")
    for record in run.records("prepared"):
        rng = np.random.default_rng(study.seed)
        drawn = [space.sample(rng) for _ in range(record.body.get("sample", 0) + 1)]
        if _differ(record.body, _hashes_now(space, drawn[-1])):
            others.append(f"the first network on {record.key}")
    return others


def _hashes_now(space: SearchSpace, architecture: Architecture) -> Mapping[str, str]:
    try:
        return network_hashes(space.build(architecture))
    except ArchitectureError:
        return {"graph": "", "names": ""}


def _differ(before: Mapping[str, Any], now: Mapping[str, str]) -> bool:
    return any(before.get(key, value) != value for key, value in now.items())
