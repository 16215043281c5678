"""The commands that run, resume and report studies."""

from __future__ import annotations

import argparse
import dataclasses
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

from devices.registry import Lab
from harness import config, speedups, stages, terminal
from harness.config import STORE
from harness.exit_codes import Exit
from harness.file_metadata import FILE_METADATA, metadata_of
from harness.host_trust import ask_secret
from harness.outcome import exit_code, result_paths, show_outcome
from harness.preflight import look_at
from harness.progress import LiveWatcher, Watcher
from harness.relaxation import check_stages, costs_before
from harness.resumption import BEGUN_WITH, begun_with, check_unchanged, stored_space, stored_study
from harness.study import Study, problem_of, read_study
from results.codec import to_json
from results.errors import ConfigError
from results.evaluations import stored_problem
from results.store import Run, Store
from search.space import SearchSpace
from search.tasks import Task


def search(args: argparse.Namespace) -> int:
    """Begins a study in a new folder under ``runs/``."""
    study = read_study(args.study)
    lab = Lab.load(args.lab)
    config.check_devices(study, lab)
    task = config.task_of(study)
    space = config.space_of(study, task)
    check_stages(config.strategy_of(study, space, problem_of(study, task)))
    speedups.check(study.speedups, task, pretrains=study.pretraining is not None)
    folder = _new_folder(args.runs, study.name)
    with Store.open(folder / STORE) as store:
        run = store.begin(folder.name, run_config(study, task, space))
        return _go_on(args, study, lab, run, folder, task)


def resume(args: argparse.Namespace, folder: Path) -> int:
    """Goes on with a run; what is stored is not done again."""
    with Store.open(folder / STORE) as store:
        run = store.run(folder.name)
        study = stored_study(run, folder / "study.toml")
        task = config.task_of(study)
        study, space = stored_space(run, study, task)
        for note in check_unchanged(run, study, task, space):
            terminal.say(f"boardwise: {note}")
        return _go_on(args, study, Lab.load(args.lab), run, folder, task)


def dry_run(args: argparse.Namespace) -> int:
    """Says what a study will cost at the most: trainings, board time, disk."""
    from harness.dry_run import forecast  # it trains, so it needs PyTorch

    study = read_study(args.study)
    lab = Lab.load(args.lab)
    config.check_devices(study, lab)
    task = config.task_of(study)
    space = config.space_of(study, task)
    strategy = config.strategy_of(study, space, problem_of(study, task))
    check_stages(strategy)
    speedups.check(study.speedups, task, pretrains=study.pretraining is not None)
    before = costs_before(strategy)
    if study.pretraining is not None:
        before["supernet_epochs"] = study.pretraining.plan.epochs
    found = forecast(study, task, strategy)
    if args.json:
        terminal.write_json({"study": study.name, "trials": study.trials, **before, **found.as_json()})
        return Exit.FINE
    from rich.table import Table

    grid = Table("what", "at the most", title=f"{study.name}: an estimate; no board is used, nothing stored")
    rows = {"trials": str(study.trials), **{k.replace("_", " "): str(v) for k, v in before.items()}}
    for key, text in (rows | found.as_rows()).items():
        grid.add_row(key, text)
    terminal.console().print(grid)
    return Exit.FINE


def _go_on(args: argparse.Namespace, study: Study, lab: Lab, run: Run, folder: Path, task: Task) -> int:
    if args.accept_noisy:
        study = dataclasses.replace(study, accept_noisy=True)
    watcher = _watcher(args, study, run)
    with run.store.claim(run.name):
        watcher.note(f"run {run.name} in {folder}")
        watcher.stage("preflight: is every board fit to be measured?")
        for name in dict.fromkeys(target.device for target in study.targets):
            look_at(lab.entry(name), f"boardwise study {study.name}", watcher, ask_secret())
        try:
            with config.open_rig(study, lab, run, watcher, ask_secret=ask_secret(), task=task) as rig:
                strategy = config.strategy_of(study, rig.space, rig.problem)
                stages.run_study(rig, strategy, folder)
                paths = result_paths(folder)
        except BaseException:
            terminal.say(f"boardwise: go on with: boardwise resume {folder}")
            raise
        finally:
            watcher.close()
    show_outcome(args, run, folder, paths)
    return exit_code(run)


def _watcher(args: argparse.Namespace, study: Study, run: Run) -> Watcher:
    if args.json:
        return Watcher()
    expected = study.speedups.expected_trainings(study.trials)
    return LiveWatcher(stored_problem(run.config), study.targets, expected)


def run_config(study: Study, task: Task, space: SearchSpace) -> dict[str, Any]:
    """What is stored of a run when it begins."""
    return {
        "study": dict(study.source),
        "targets": to_json(study.targets),
        "problem": to_json(problem_of(study, task)),
        "task": {
            "name": task.name,
            "metric": task.metric,
            "maximise": task.maximise,
            "credits": " ".join(task.credits),
            "normalisation": to_json(task.splits().train.normalisation),
        },
        FILE_METADATA: dict(metadata_of(task)),
        "seed": study.seed,
        "fidelity": to_json(study.fidelity),
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "strategy": {"name": study.strategy.name, "options": dict(study.strategy.options)},
        "version": version("boardwise"),
        "host": socket.gethostname(),
        BEGUN_WITH: begun_with(study, task, space),
    }


def _new_folder(runs: Path, name: str) -> Path:
    """``runs/<name>``, or with the next free number where that is taken: nothing is overwritten."""
    for number in range(1, 10_000):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error
        return folder
    raise ConfigError(f"{runs}: has too many runs called {name}; remove some or give the study another name")
