"""Options of runtimes: what may be said, and what holds where nothing is said."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Tuple

from .failures import Failure


class Choice(NamedTuple):
    """An option that is one of a few words or truth values."""

    default: Any
    known: Tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        """Whether it may be set to ``value``."""
        return any(type(value) is type(word) and value == word for word in self.known)

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(word) for word in self.known)


class Count(NamedTuple):
    """An option that is a whole number from 1 on."""

    default: int
    greatest: int

    def accepts(self, value: Any) -> bool:
        """Whether it may be set to ``value``."""
        return type(value) is int and 1 <= value <= self.greatest

    def __str__(self) -> str:
        return "a whole number from 1 to %d" % self.greatest


class Text(NamedTuple):
    """An option that is any text, such as a path on the board."""

    default: str

    def accepts(self, value: Any) -> bool:
        """Whether it may be set to ``value``."""
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a text"


def read(runtime: str, known: Mapping[str, Any], given: Any) -> Dict[str, Any]:
    """All options of a runtime: as they were given, else their defaults.

    Raises:
        Failure: ``bad_option`` if one is unknown or set to what it may not be.
    """
    if not isinstance(given, dict):
        raise Failure("bad_request", "options of %s are no object: %.80r" % (runtime, given))
    for name, value in given.items():
        if name not in known:
            message = "%s has no option %.80r; it has %s" % (runtime, name, ", ".join(sorted(known)))
            raise Failure("bad_option", message)
        if not known[name].accepts(value):
            raise Failure("bad_option", "%s: %s is %s, not %.80r" % (runtime, name, known[name], value))
    return dict({name: option.default for name, option in known.items()}, **given)
