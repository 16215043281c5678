"""What is wrong with a command's files, said before the imports that take seconds (PyTorch, pandas)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from devices.registry import Lab
from results.errors import ConfigError, unknown_name
from results.settings import Settings

if TYPE_CHECKING:
    from results.records import Target

STORE = "store.sqlite"


def look_at_file(args: argparse.Namespace, path: Path) -> None:
    """Raises ConfigError for a study or plan that is no TOML, or a lab that cannot be read."""
    Settings.read(path)
    Lab.load(args.lab)


def look_at_study(args: argparse.Namespace) -> None:
    """Raises ConfigError for a study that is no TOML, or has a key, value or name that cannot be."""
    look_at_file(args, args.study)
    from harness import plugins
    from harness.study import read_study  # takes longer than all of the above

    study = read_study(args.study)
    _look_at_devices(args, study.targets)
    if not study.space.name.endswith(".py") and ":" not in study.space.name:
        plugins.look_for("spaces", study.space.name, f"{args.study}: [space]: ")
    plugins.look_for("strategies", study.strategy.name.partition(":")[0], f"{args.study}: [strategy]: ")


def look_at_plan(args: argparse.Namespace, path: Path) -> None:
    """Raises ConfigError for a plan that is no TOML, or has a key, value or device that cannot be."""
    look_at_file(args, path)
    from harness.nightly_plan import read_plan  # takes longer than all of the above

    _look_at_devices(args, read_plan(path).targets)


def _look_at_devices(args: argparse.Namespace, targets: Iterable[Target]) -> None:
    lab = Lab.load(args.lab)
    for target in targets:
        lab.entry(target.device)


def look_at_device(args: argparse.Namespace, *models: str) -> None:
    """Raises ConfigError for a device that is not in the lab, and for model files that are not there."""
    Lab.load(args.lab).entry(args.on)
    for model in models:
        path = Path(model)
        if path.suffix.lower() in (".onnx", ".tflite") and not path.exists():
            raise ConfigError(f"{model} cannot be read: no such file")


def run_folder(args: argparse.Namespace) -> Path:
    """The folder of the run that a command names.

    Raises:
        ConfigError: If there is none, with the nearest names.
        StoreError: If its store cannot be read, or holds no run of that name.
    """
    from results.store import Store

    for folder in (Path(args.run), args.runs / args.run):
        if (folder / STORE).is_file():
            found = folder.resolve()
            with Store.open_to_read(found / STORE) as store:
                store.run(found.name)
            return found
    known = {path.parent.name for path in args.runs.glob(f"*/{STORE}")} - {"nightly"}  # plans, not runs
    raise ConfigError(f"{unknown_name('run', str(args.run), known)} (looked in {args.runs}/)")
