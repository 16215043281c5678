"""What the agent says when it cannot do what it was asked for."""

from __future__ import annotations

from typing import Dict


class Failure(Exception):
    """A request that failed in a way the host knows about.

    Args:
        kind: One word; the host makes its error from it (``devices/agent_replies.py``).
        message: What happened.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    def reply(self) -> Dict[str, str]:
        """Its form in a reply."""
        return {"kind": self.kind, "message": self.message[-2000:]}


def describe(error: BaseException) -> str:
    """An exception in one line, its type first unless it has none worth saying."""
    text = " ".join(str(error).split())
    return "%s: %s" % (type(error).__name__, text) if text else type(error).__name__
