"""Going on with a run: its study and its space as they were when it began."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import space_of
from harness.study import Named, Study, study_of
from results.codec import from_json
from results.records import Target
from results.store import Run
from search.space import SearchSpace
from search.tasks import Task

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
    if space.fingerprint != wanted:
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
