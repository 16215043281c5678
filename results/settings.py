"""Reads TOML tables that people wrote: every key is asked for by name and type, the rest is refused.

An error names the file, the table, the key, the value and what would have been right.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from results.errors import ConfigError, unknown_name

LARGEST = 2**63 - 1
"""Greatest whole number, which is TOML's own (toml.io/en/v1.0.0#integer); Python would read any."""

T = TypeVar("T")
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


class Settings:
    """One table of a file.  Take every known key, then call :meth:`done`.

    Args:
        values: The table.
        where: File and table, for messages, such as ``study.toml [training]``.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = dict(values)
        self._known: set[str] = set()
        self.where = where

    @classmethod
    def read(cls, path: Path) -> Settings:
        """The top table of a TOML file.

        Raises:
            ConfigError: If it cannot be read or is no TOML.
        """
        try:
            return cls(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file") from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except RecursionError as error:
            raise ConfigError(f"{path}: its values are nested too deeply") from error
        except ValueError as error:  # TOML's own and that of text that is not UTF-8 among them
            raise ConfigError(f"{path}: not valid TOML: {error}") from error

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of a key, of the type asked for; an int passes for a float.

        Raises:
            ConfigError: If it is missing without a default, or of another type.
        """
        value = self.take_optional(key, kind)
        if value is not None:
            return value
        if default is None:
            raise self.error(key, "is missing")
        return default

    def take_optional(self, key: str, kind: type[T]) -> T | None:
        """The value of a key, or None if it is not there."""
        self._known.add(key)
        if key not in self._values:
            return None
        value = self._values[key]
        if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            raise self.error(key, "is a number too large")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"must be {_NAMES.get(kind, kind.__name__)}, got {value!r}")
        return value

    def take_number(self, key: str, default: float, *, low: float, high: float = float("inf")) -> float:
        """A finite number within bounds (both allowed)."""
        value = self.take(key, float, default)
        if not low <= value <= high or math.isinf(value):
            upper = "" if math.isinf(high) else f" and at most {high:g}"
            raise self.error(key, f"must be a finite number of at least {low:g}{upper}, got {value:g}")
        return value

    def take_count(self, key: str, default: int, *, low: int = 1) -> int:
        """A whole number not below ``low``."""
        value = self.take(key, int, default)
        if value < low:
            raise self.error(key, f"must be at least {low}, got {value}")
        return value

    def take_name(self, key: str, known: Iterable[str], default: str | None = None) -> str:
        """One of the known names; another is answered with the nearest."""
        name = self.take(key, str, default)
        names = list(known)
        if name not in names:
            raise self.error(key, unknown_name("name", name, names))
        return name

    def table(self, key: str) -> Settings:
        """A table below this one; empty if it is not there."""
        self._known.add(key)
        value = self._values.get(key, {})
        if not isinstance(value, Mapping):
            raise self.error(key, f"must be a table, got {value!r}")
        return Settings(value, f"{self.where} [{key}]")

    def tables(self, key: str) -> list[Settings]:
        """An array of tables below this one."""
        self._known.add(key)
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
            raise self.error(key, f"must be an array of tables ([[{key}]]), got {value!r}")
        return [Settings(v, f"{self.where} [[{key}]] number {i}") for i, v in enumerate(value, start=1)]

    def rest(self) -> dict[str, Any]:
        """All keys not taken yet, for an owner that checks them itself."""
        left = {k: v for k, v in self._values.items() if k not in self._known}
        self._known |= set(left)
        return left

    def keys(self) -> list[str]:
        """Every key that the table has."""
        return list(self._values)

    def done(self) -> None:
        """Refuses keys that nobody took, with the nearest known."""
        for key in self._values:
            if key not in self._known:
                raise ConfigError(f"{self.where}: {unknown_name('key', key, self._known)}")

    def error(self, key: str, message: str) -> ConfigError:
        """A ConfigError that names the file, the table and the key."""
        return ConfigError(f"{self.where}: {key} {message}")
