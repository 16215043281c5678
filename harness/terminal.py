"""All that Boardwise prints goes through here: foreign text reaches the terminal as text and nothing else.

No markup is read from any text ("[/usr/bin/x]" and "[pretrain]" stay as they are; styles are given beside
it), and no control character is let through (:mod:`results.printable`).
"""

from __future__ import annotations

import functools
import getpass
import json
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from results.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console


def write(text: str) -> None:
    """Prints a result."""
    print(printable_lines(text), flush=True)


def say(text: str) -> None:
    """Tells the person what is going on or went wrong: on stderr, where it does not mix with results.

    Further lines are indented, so that none of them passes for a message of its own.
    """
    print(printable_lines(text).replace("\n", "\n  "), file=sys.stderr, flush=True)


def write_json(value: Any) -> None:
    """Prints a result for programs."""
    print(json.dumps(value, indent=2).replace("\x7f", "\\u007f"), flush=True)


def ask_hidden(question: str) -> str:
    """An answer that is not shown while it is typed."""
    return getpass.getpass(printable(question))


def console(file: IO[str] | None = None, *, stderr: bool = False) -> Console:
    """A console of Rich that takes every text as it is, control characters aside."""
    return _console_class()(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)


@functools.cache
def _console_class() -> type[Console]:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Terminal(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable_lines(text), **options)  # before its width is taken

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else printable_lines(segment.text)
                yield Segment(text, segment.style, segment.control)

    return Terminal
