"""The meter of a device as the lab file describes it: which one, and on which machine it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from results.errors import ConfigError
from results.records import Option

BOARD, HOST = "board", "host"


@dataclass(frozen=True)
class MeterEntry:
    """One ``[devices.NAME.meter]`` table.

    Attributes:
        kind: A file in ``devices/agent/meters/``.
        on: Machine that it hangs on or is reached from: ``board`` (the device itself), ``host`` (this
            machine), or the name of another device of the lab.
        python: Python that reads it there, where another one is wanted than for measuring.
        options: Of the meter itself.
    """

    kind: str
    on: str = BOARD
    python: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Mapping[str, Option]) -> MeterEntry:
        """The entry of a table.

        Raises:
            ConfigError: If it names no kind, or a value is no plain one.
        """
        rest = dict(table)
        names: dict[str, Option] = {key: rest.pop(key) for key in ("kind", "on", "python") if key in rest}
        for key, value in names.items():
            if not isinstance(value, str) or not value.strip():
                raise ConfigError(f"meter: {key} must be a text, got {value!r}")
        if "kind" not in names:
            raise ConfigError(f"meter must name its kind, such as kind = 'shelly', got {dict(table)}")
        for key, value in rest.items():
            if not isinstance(value, str | int | float | bool):
                raise ConfigError(f"meter: {key} must be a text, a number or a truth value, got {value!r}")
        return cls(**names, options=rest)  # type: ignore[arg-type]

    def wire(self, device: str) -> tuple[str, str, tuple[tuple[str, Option], ...]]:
        """What two devices may not have in common: the same meter on the same machine."""
        return device if self.on == BOARD else self.on, self.kind, tuple(sorted(self.options.items()))


def check_meters(tables: Mapping[str, Mapping[str, Option]]) -> None:
    """Refuses meters on machines that there are not, and one meter for two devices.

    Args:
        tables: The ``meter`` table of every device; empty where it has none.

    Raises:
        ConfigError: Naming the devices.
    """
    owners: dict[object, str] = {}
    for device, table in tables.items():
        if not table:
            continue
        entry = MeterEntry.of(table)
        if entry.on not in (BOARD, HOST, *tables):
            known = ", ".join((BOARD, HOST, *tables))
            raise ConfigError(f"[devices.{device}.meter] on = {entry.on!r}: no such machine; known: {known}")
        other = owners.setdefault(entry.wire(device), device)
        if other != device:
            raise ConfigError(
                f"[devices.{device}.meter] is the meter of {other!r} as well: one meter cannot tell two"
                " boards apart; give each its own, or take the table of the board that is not wired to it out"
            )
