"""Foreign text made safe to show: names and errors from boards, files and stored runs reach no terminal raw.

Escape sequences move cursors, set titles and fill clipboards; marks of writing direction (Unicode, bidi)
make a text look like another.  What Python does not call printable becomes a space: control characters
(C0, DEL, C1), format characters (bidi among them), lone surrogates, line ends.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` on one line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def printable_lines(text: str) -> str:
    """``text`` with its line ends kept."""
    return "\n".join(map(printable, text.split("\n")))
