"""Exit codes, one table for all commands.  A command that signal n ended exits with 128 + n."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of a command tells the script that called it."""

    FINE = 0
    ERROR = 1
    """Something to mend: a file, an option, a board.  The message says what and how."""
    USAGE = 2
    """The words of the command line are wrong."""
    EXCEEDED = 3
    """A regression, or a limit that the user set for this command is exceeded."""
    UNJUDGED = 4
    """Nothing could be judged or confirmed: every board was busy, no candidate keeps the limits."""
