"""Bodies of records that older versions wrote, brought to today's shape when they are read.

What is stored is never rewritten.  When the body of a record kind changes its shape, :data:`SCHEMA` goes up
by one and a function from the shape before it goes into :data:`UPGRADES` under ``(kind, old number)``.
Kinds without a function for a step kept their shape in that step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from results.errors import StoreError

SCHEMA = 1
"""Number that new records are written with."""

Upgrade = Callable[[Any], Any]

UPGRADES: dict[tuple[str, int], Upgrade] = {}
"""By record kind (``run`` for the configuration of a run) and the schema number that it starts from."""


def upgrade(
    kind: str,
    schema: int,
    body: Any,
    *,
    upgrades: Mapping[tuple[str, int], Upgrade] = UPGRADES,
    current: int = SCHEMA,
) -> Any:
    """A body in today's shape.

    Raises:
        StoreError: If a newer version wrote it.
    """
    if not isinstance(schema, int) or schema < 0:
        raise StoreError(f"a {kind!r} record is damaged: it has the schema {schema!r}")
    if schema > current:
        raise StoreError(
            f"a {kind!r} record has schema {schema}, this version knows up to {current}; upgrade Boardwise"
        )
    for step in range(schema, current):
        body = upgrades.get((kind, step), _unchanged)(body)
    return body


def _unchanged(body: Any) -> Any:
    return body
