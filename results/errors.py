"""Every error that Boardwise raises on purpose, in one tree, split by whose fault it is.

::

    BoardwiseError
    ├── ConfigError             a study, lab or plan file, a name
    │   ├── UsageError          the words of the command line
    │   └── DataError           a data set that cannot be read or does not fit its task
    ├── ArchitectureError       choices that a space does not have, a graph that does not join up
    ├── StoreError              the store: locked, foreign, damaged, contradicted
    ├── BoardError(device)      the board's fault: retried, never told to the search
    │   ├── ConnectionLost      unreachable, or gone in the middle
    │   ├── AuthenticationError no key or password that the board accepts
    │   ├── HostKeyError        unknown or changed host key
    │   ├── BoardHeld           somebody else measures there now
    │   ├── PreflightError      not in a state to measure (no Python, no disk, throttled ...)
    │   │   ├── RuntimeMissing  the runtime is not on the board: `boardwise devices setup`
    │   │   ├── BoardDiskFull   no room for an artifact
    │   │   └── BoardBusy       other work runs there: nothing final can be measured now
    │   ├── ProvisionError      no wheel for this board, or one that does not start
    │   ├── ProtocolError       the agent said what it may not say
    │   └── MeterError          a power meter that is gone, silent or absurd
    └── CandidateError(artifact) the candidate's fault: told to the search, stored with its reason
        ├── ExportError         cannot be written, fails its checker, or is another network
        ├── RuntimeRefused      the runtime does not load or run it
        ├── SessionCrashed      the session's process died
        ├── OutOfMemory         ... killed for its memory
        ├── SessionTimeout      longer than the plan's load limit
        ├── WrongOutput         other numbers on the board than on the host
        ├── TrainingError       not a number, too long, or the user's own code raised
        └── StepFailed          a step raised what nobody foresaw; the traceback is kept

The one retry rule (``harness/board.py``) reads nothing but this split.  Errors of libraries are
translated where they come in, with ``raise ... from``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BoardwiseError(Exception):
    """Base of all errors a user can mend; the command line prints it and exits with 1."""


class ConfigError(BoardwiseError):
    """A file, key, value or option that cannot be used; the message names all of them and the remedy."""


class UsageError(ConfigError):
    """An option or argument of the command line has a value that it cannot have; ends the command with 2."""


class DataError(ConfigError):
    """A data set that is missing, unreadable or does not fit the task."""


class ArchitectureError(BoardwiseError):
    """Choices that the space does not have, or layers that do not fit together."""


class StoreError(BoardwiseError):
    """The store is locked, damaged, of another kind, or contradicts what is appended."""


class BoardError(BoardwiseError):
    """Something that a board (not a candidate) is to blame for.

    Args:
        device: Name of the device in the lab file.
        message: What happened and what to do about it.
    """

    def __init__(self, device: str, message: str) -> None:
        super().__init__(f"{device}: {message}")
        self.device = device
        self.message = message

    def __reduce__(self) -> tuple[type[BoardError], tuple[str, str]]:
        return type(self), (self.device, self.message)


class ConnectionLost(BoardError):
    """The board cannot be reached, or the connection ended in the middle."""


class AuthenticationError(BoardError):
    """The board accepts none of the keys or passwords at hand."""


class HostKeyError(BoardError):
    """The host key is unknown, or another one than was trusted."""


class BoardHeld(BoardError):
    """Somebody else measures on the board; the message says who."""


class PreflightError(BoardError):
    """The board is not in a state in which it may be measured."""


class RuntimeMissing(PreflightError):
    """The board has no such runtime; `boardwise devices setup` brings one."""


class BoardDiskFull(PreflightError):
    """The board has no room for what must be stored there."""


class BoardBusy(PreflightError):
    """Other work runs on the board, so that nothing final can be measured there now."""


class ProvisionError(BoardError):
    """No runtime for this board could be found, fetched, verified or started."""


class ProtocolError(BoardError):
    """The agent sent something that it may not send."""


class MeterError(BoardError):
    """A power meter is gone, silent, or reads what cannot be."""


class CandidateError(BoardwiseError):
    """Something that a candidate (not a board) is to blame for.

    Args:
        artifact: Hash of the file, or another name of the candidate.
        message: What happened.
    """

    def __init__(self, artifact: str, message: str) -> None:
        super().__init__(f"{artifact[:12]}: {message}")
        self.artifact = artifact
        self.message = message

    def __reduce__(self) -> tuple[type[CandidateError], tuple[str, str]]:
        return type(self), (self.artifact, self.message)


class ExportError(CandidateError):
    """The file cannot be written, fails its format's checker, or computes something else."""


class RuntimeRefused(CandidateError):
    """The runtime does not load or does not run the file."""


class SessionCrashed(CandidateError):
    """The process that ran the file died."""


class OutOfMemory(CandidateError):
    """The board or this machine has not the memory that it takes, or its process was killed for it."""


class SessionTimeout(CandidateError):
    """The file did not load or run within the plan's limit."""


class WrongOutput(CandidateError):
    """The board computes other numbers than the host."""


class TrainingError(CandidateError):
    """The training gave no usable network.

    Args:
        artifact: Name of the candidate.
        message: What happened.
        training_s: CPU time that was spent until then, as far as known [s].
    """

    def __init__(self, artifact: str, message: str, training_s: float = 0.0) -> None:
        super().__init__(artifact, message)
        self.training_s = training_s

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str, str, float]]:  # type: ignore[override]
        return type(self), (self.artifact, self.message, self.training_s)


class StepFailed(CandidateError):
    """A step raised what nobody foresaw: the error's cause."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """A sentence for a name that does not exist, with the nearest ones that do.

    Args:
        what: What was looked for, such as ``"strategy"``.
        name: The name as it was given.
        known: All names that would have been understood.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"unknown {what} {name!r}; did you mean {' or '.join(repr(n) for n in near)}?"
    return f"unknown {what} {name!r}; known: {', '.join(names) or 'none'}"
