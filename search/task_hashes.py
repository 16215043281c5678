"""Whether a task is still the one that a run began with: hashes of its data and of the user's own code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from results.errors import DataError
from search.code_hashes import changed, code_of
from search.tasks import Task


@dataclass(frozen=True)
class TaskHashes:
    """A task at the beginning of a run.

    Attributes:
        data: Hash of each split, by its name.
        code: Hash by file and definition (:mod:`search.code_hashes`); empty but for a task of the user's own.
    """

    data: Mapping[str, str]
    code: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, name: str, task: Task) -> TaskHashes:
        """Those of a task by its name or path, as it is now."""
        return cls(task.splits().hashes(), code_of(name))

    def edited(self) -> dict[str, list[str]]:
        """Definitions that are not as they were, by file."""
        return changed(self.code)

    def other_splits(self, task: Task) -> list[str]:
        """Splits whose data is not as it was."""
        return [name for name, found in task.splits().hashes().items() if found != self.data.get(name)]

    def check(self, name: str, task: Task) -> None:
        """Raises DataError if a task that was read meanwhile is another one.

        Of a task of the user's own the code alone is looked at, in the files that this machine has: its data
        may be made with arithmetic that differs between processes in the last digit.
        """
        found = self.edited()
        here = [f"{file}: {', '.join(names)}" for file, names in found.items() if Path(file).exists()]
        what = here or ([] if self.code else [f"its {part} data" for part in self.other_splits(task)])
        if what:
            raise DataError(
                f"task {name!r} was changed while the run was under way: {'; '.join(what)}; put it back and "
                "resume, or begin a new run"
            )
