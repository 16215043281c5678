"""What the bodies of records hold: looked at before anything is made of them.

A store may be damaged or somebody else's.  Types of :mod:`results.records` are validated where they are read
(:mod:`results.codec`); here stand the plain fields, by kind of record.  Fields that nothing reads may hold
anything.  A name that ends with ``?`` may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from results.codec import read_as
from results.errors import StoreError
from results.records import Fidelity, Interval, Option, Score, State
from results.store import Record, Run

Object = Mapping[str, Any]
Shape = Mapping[str, Any]

CONFIG: Shape = {
    "targets": tuple[Object, ...],
    "problem": Object,
    "task?": Object,
    "space?": Object,
    "strategy?": Object,
    "fidelity?": Fidelity | None,
    "task.name?": str,
    "task.credits?": str | tuple[str, ...] | None,
    "task.normalisation?": Object | None,
    "task.normalisation.mean": tuple[float, ...],
    "task.normalisation.std": tuple[float, ...],
    "space.name?": str,
    "space.fingerprint?": str,
    "strategy.name?": str,
}

BODIES: Mapping[str, Shape] = {
    "asked": {"trial": Object, "options": Mapping[str, Option]},
    "built": {
        "network": Mapping[str, float],
        "network.macs": float,
        "network.parameters": float,
        "graph": str,
    },
    "measured": {"measurement": Object},
    "confirmed": {"measurement": Object},
    "prepared": {"measurement": Object},
    "not_confirmed": {"device": str, "reason": str},
    "trained": {
        "accuracy": Mapping[str, Score],
        "learning_curve": tuple[float, ...],
        "checkpoint": str | None,
        "training_s": float,
        "stopped?": Object | None,
        "stopped.saved_s": float,
        "stopped.ends": Interval,
    },
    "exported": {"artifact": Object},
    "scored": {"accuracy": Mapping[str, Score]},
    "scored_on_board": {"score": Score},
    "tested": {"accuracy": Mapping[str, Score], "undefined?": Mapping[str, str]},
    "told": {"state": State, "error": str | None, "training_s?": float},
    "refuted": {"error": str},
    "finished": {"wall_s?": float, "ended?": str},
    "raised": {"traceback": str},
    "inherited": {"parent": int | str, "kind": str, "share": float},
    "correlated": {"shared": Score, "alone": Score, "epochs": int, "training_s": float},
    "pretrained": {"plan?": Any},
}

SUPERNET: Shape = {
    "plan": Object,
    "plan.epochs": int,
    "plan.sampling": str,
    "batch_size": int,
    "notes": tuple[str, ...],
    "training_s": float,
}
RELAXATION: Shape = {
    "plan": Object,
    "plan.method": str,
    "plan.epochs": int,
    "plan.latency_form": str,
    "plan.latency_weight": float,
    "found": Object,
    "found.curve": tuple[Any, ...],
    "found.search_s": float,
    "found.stopped": str | None,
    "architecture": Object,
    "architecture.choices": tuple[int, ...],
    "sum_of_blocks_s": Mapping[str, float],
}


def records(run: Run, kind: str | None = None) -> Iterator[Record]:
    """Records of a run as :meth:`~results.store.Run.records` gives them, their bodies looked at.

    Raises:
        StoreError: Naming run, record and key of a body that is not what its kind says.
    """
    for record in run.records(kind):
        with naming(run, record):
            if shape := _shape(record):
                check(shape, record.body)
        yield record


def _shape(record: Record) -> Shape:
    if record.kind == "pretrained" and isinstance(record.body, Mapping):
        if record.key == "supernet" or "losses" in record.body:
            return SUPERNET
        return RELAXATION if "sum_of_blocks_s" in record.body else {}
    return BODIES.get(record.kind, {})


def check(shape: Shape, body: Any) -> None:
    """Raises StoreError, with the field, for a body of another shape."""
    for name, kind in shape.items():
        *parents, field = name.rstrip("?").split(".")
        holder = body
        for parent in parents:  # that they are there is said by fields of their own
            holder = None if holder is None else _object(holder).get(parent)
        if holder is None and parents:
            continue
        if field in _object(holder):
            read_as(kind, holder[field], name.rstrip("?"))
        elif not name.endswith("?"):
            raise StoreError(f"has no {name!r}")


def _object(value: Any) -> Object:
    if not isinstance(value, Mapping):
        raise StoreError(f"expected an object, got {str(value)[:80]!r}")
    return value


@contextmanager
def naming(run: Run, record: Record) -> Iterator[None]:
    """Names the record in errors of the block that reads it."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"run {run.name!r}, record {record.kind!r} {record.key!r}: {error}") from error
