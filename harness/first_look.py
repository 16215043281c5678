"""What is wrong with a command's files, said before the imports that take seconds (PyTorch, pandas)."""

from __future__ import annotations

import argparse
from pathlib import Path

from devices.registry import Lab
from results.errors import ConfigError, unknown_name
from results.settings import Settings

STORE = "store.sqlite"


def look_at_file(args: argparse.Namespace, path: Path) -> None:
    """Raises ConfigError for a study or plan that is no TOML, or a lab that cannot be read."""
    Settings.read(path)
    Lab.load(args.lab)


def look_at_study(args: argparse.Namespace) -> None:
    """Raises ConfigError for a study that is no TOML, or has a key or value that cannot be."""
    look_at_file(args, args.study)
    from harness.study import read_study  # takes longer than all of the above

    read_study(args.study)


def look_at_device(args: argparse.Namespace) -> None:
    """Raises ConfigError for a device that is not in the lab."""
    Lab.load(args.lab).entry(args.on)


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
