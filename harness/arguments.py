"""Values of options, as the command line reads them; what they refuse ends a command with exit code 2.

Only the standard library is imported, so that ``boardwise --help`` is instant.
"""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: If it is none.
    """
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
