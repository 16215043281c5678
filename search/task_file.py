"""A task of the user's own: one Python file with its data and whatever it wants to do its own way."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from results.errors import ConfigError, DataError
from search.arrays import Dealing, splits_of
from search.tasks import Task, TaskFile, numbered
from search.user_code import blamed


def task_file(path: Path, options: Mapping[str, Any]) -> Task:
    """The task that a Python file defines (:class:`search.tasks.TaskFile`).

    Args:
        path: The file; it is executed.
        options: Keyword arguments of its ``data``.

    Raises:
        DataError: If the file does not define a usable task; what its own code raised is quoted.
    """
    module = executed(path, DataError)
    if _function(module, "data", path) is None:
        raise DataError(f"{path}: defines no function data()")
    loss, measure, trainer = (_function(module, name, path) for name in ("loss", "metric", "train"))
    outputs = getattr(module, "OUTPUTS", None)
    _check_constants(module, path)
    if outputs is not None and (loss is None or measure is None):
        raise DataError(f"{path}: with OUTPUTS, the targets are your own: define loss() and metric() too")
    arrays = _called(cast(TaskFile, module), options, path)
    with blamed(f"{path}: what data() returned cannot be used", DataError):
        splits = splits_of(arrays, str(path), Dealing(), outputs=outputs)
    classes = outputs or int(splits.train.labels.max()) + 1
    return Task(
        name=path.stem,
        classes=classes,
        data=splits,
        credits=tuple(getattr(module, "CREDITS", ())),
        metric=(getattr(module, "METRIC", None) or "").strip()
        or ("accuracy" if measure is None else "metric"),
        maximise=getattr(module, "MAXIMISE", True),
        loss=loss,
        measure=measure,
        whole_split=getattr(module, "WHOLE_SPLIT", False),
        trainer=trainer,
        class_names=_class_names(module, classes, path),
    )


def executed(path: Path, kind: type[ConfigError]) -> ModuleType:
    """The module that a user's Python file defines; the error is of the kind asked for.

    Raises:
        ConfigError: If it cannot be executed, with the end of the traceback.
    """
    name = f"boardwise_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise kind(f"{path}: cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
    with blamed(f"{path}: cannot be executed", kind):
        # Not by way of a cached .pyc, which an edit within the same second is not noticed by.
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    return module


def _function(module: ModuleType, name: str, path: Path) -> Any:
    value = getattr(module, name, None)
    if value is not None and not callable(value):
        raise DataError(f"{path}: {name} is to be a function, it is a {type(value).__name__}")
    return value


def _check_constants(module: ModuleType, path: Path) -> None:
    wanted = {
        "OUTPUTS": int,
        "CLASSES": (list, tuple),
        "METRIC": str,
        "MAXIMISE": bool,
        "WHOLE_SPLIT": bool,
        "CREDITS": (list, tuple),
    }
    for name, kind in wanted.items():
        if not isinstance(getattr(module, name, None), (type(None), kind)):  # type: ignore[arg-type]
            raise DataError(f"{path}: {name} is {getattr(module, name)!r}, of the wrong type")
    credits = getattr(module, "CREDITS", None) or ()
    if not all(isinstance(each, str) for each in credits):
        raise DataError(f"{path}: CREDITS is a list of texts, got {credits!r}")
    outputs = getattr(module, "OUTPUTS", None)
    if outputs is not None and (isinstance(outputs, bool) or outputs < 1):
        raise DataError(f"{path}: OUTPUTS is the number of outputs of the network, got {outputs!r}")


def _class_names(module: ModuleType, classes: int, path: Path) -> tuple[str, ...]:
    names = getattr(module, "CLASSES", None)
    if names is None:
        return numbered(classes) if getattr(module, "OUTPUTS", None) is None else ()
    if not all(isinstance(name, str) for name in names) or len(names) != classes:
        raise DataError(f"{path}: CLASSES is to name the {classes} outputs in order, got {names!r}")
    return tuple(names)


def _called(module: TaskFile, options: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    with blamed(f"{path}: data() raised", DataError):
        arrays = module.data(**options)
    if not isinstance(arrays, Mapping):
        raise DataError(f"{path}: data() is to return arrays by name, it returned a {type(arrays).__name__}")
    return arrays
