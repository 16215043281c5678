"""Markdown as the reports need it.  Foreign text goes through :func:`escape`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from results.printable import printable

_ACTIVE = re.compile(r"[`*$~]|<(?=[A-Za-z/!?])|\](?=[(\[:])|\\(?=[!-/:-@\[-`{-~])")
"""What begins or ends something in a line: code, emphasis, mathematics, HTML, a link's end, an escape."""


def escape(text: object) -> str:
    """A value on one line, as it is read: no HTML, link, picture, emphasis; not for a line's start."""
    return _ACTIVE.sub(r"\\\g<0>", printable(str(text)))


def code(text: object) -> str:
    """A value on one line, to be read by a machine."""
    return f"`{printable(str(text)).replace('`', ' ')}`"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; cells are text, whatever they hold."""
    lines = [_line(header), _line(["---"] * len(header)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(escape(cell).replace("|", "\\|") for cell in cells) + " |"
