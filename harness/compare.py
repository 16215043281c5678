"""`boardwise compare A B`: two files, or the best of two runs, measured in turns on one board."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from devices.registry import Lab
from harness import config, terminal
from harness.bench import PATIENCE_S, options_of
from harness.exit_codes import Exit
from harness.export import Exported
from harness.host import Host
from harness.host_trust import ask_secret
from harness.measure import Job, measure_together
from harness.sources import parse_shapes, source
from harness.study import BENCH
from results.codec import to_json
from results.comparison import SAME, Comparison, agents_needed, compare, sentence
from results.errors import ConfigError
from results.records import FORMATS, Measurement, Target
from results.statistics import judge
from results.store import Store

PLAN = replace(BENCH, name="compare", sessions=(16, 16), agents=8)
"""Two sessions of each in each of eight agents: what an agent does to a file is the greatest part."""

RUN = "compare"


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    name: str
    file: Exported


def compare_command(args: argparse.Namespace) -> int:
    """Measures both in turns, says what differs, and stores it; exit code 4 where it cannot be told."""
    a, b = (_side(text, args) for text in (args.a, args.b))
    if a.file.artifact.file_format != b.file.artifact.file_format:
        raise ConfigError(f"{a.name} and {b.name} are files of two formats, so no one target runs both")
    target = _target(args, a)
    lab = Lab.load(args.lab)
    entry = lab.entry(args.on)
    board = config.board_of(
        entry, "boardwise compare", Host(), ask_secret=ask_secret(), give_up_after_s=PATIENCE_S, lab=lab
    )
    agents = args.agents or PLAN.agents
    plan = replace(PLAN, agents=agents, sessions=(2 * agents, 2 * agents))
    jobs = [Job(side.file.artifact, side.file.data, target, plan) for side in (a, b)]
    try:
        measure_together(board, jobs, seed=time.time_ns() % 2**31)
        measured = [job.measurement(board.facts, board.origin) for job in jobs]
    finally:
        board.close()
    return _say(args, a, b, measured)


def _say(args: argparse.Namespace, a: Side, b: Side, measured: list[Measurement]) -> int:
    found = compare(measured[0], measured[1])
    names = ("A", "B") if a.name == b.name else (a.name, b.name)
    text = sentence(found, *names)
    _keep(args.runs / "compare", names, measured)
    code = Exit.UNJUDGED if found.verdict == "cannot tell" else Exit.FINE
    if args.json:
        terminal.write_json(_as_json(found, text, names, measured))
        return code
    terminal.write(text)
    for reason in found.reasons:
        terminal.write(f"  {'invalid' if found.invalid else 'noisy'}: {reason}")
    return code


def _as_json(
    found: Comparison, text: str, names: tuple[str, str], measured: list[Measurement]
) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "sentence": text,
        "ratio": to_json(found.ratio),
        "p": found.p,
        "agents": found.pairs,
        "same_within": SAME,
        "spread_between_agents": found.spread,
        "agents_needed_estimated": agents_needed(found) if found.verdict == "cannot tell" else None,
        "files": {
            name: {"sha256": m.artifact.sha256, "verdict": judge(m).state}
            for name, m in zip(names, measured, strict=True)
        },
        "reasons": list(found.reasons),
    }


def _keep(folder: Path, names: tuple[str, str], measured: list[Measurement]) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    with Store.open(folder / config.STORE) as store:
        run = store.run(RUN) if RUN in store.runs() else store.begin(RUN, {"kind": "compare"})
        for side, name, measurement in zip("AB", names, measured, strict=True):
            run.append("compared", f"{stamp}/{side}", {"file": name, "measurement": to_json(measurement)})


def _side(text: str, args: argparse.Namespace) -> Side:
    """A file, or the best candidate of a run: ``RUN``, or ``RUN:TRIAL`` for another one."""
    folder, _, trial = (
        text.partition(":") if (Path(text.partition(":")[0]) / config.STORE).is_file() else (text, "", "")
    )
    for run in (Path(folder), args.runs / folder):
        if (run / config.STORE).is_file():
            path = _winner(run, trial, args)
            return Side(f"{run.name}:{path.stem}", _read(str(path), args))
    return Side(Path(text).name, _read(text, args))


def _read(text: str, args: argparse.Namespace) -> Exported:
    found = source(text, parse_shapes(args.shape), "tflite" if args.runtime == "tflite" else "onnx")
    return Exported(found.artifact, found.data)


def _winner(folder: Path, trial: str, args: argparse.Namespace) -> Path:
    """File of a trial of a run, by default of the one with the best score on the front of the target."""
    runtime = args.runtime or "onnxruntime"
    if not trial:
        trial = str(_best(folder, args.on, runtime))
    path = folder / "models" / f"trial{trial.removeprefix('trial')}.{FORMATS[runtime]}"
    if path.is_symlink() or not path.is_file():
        known = sorted(p.stem for p in path.parent.glob(f"*.{FORMATS[runtime]}"))
        raise ConfigError(f"{path}: no such file; the run has {', '.join(known) or 'no winners yet'}")
    return path


def _best(folder: Path, device: str, runtime: str) -> int:
    from results import table
    from results.evaluations import history

    with Store.open_to_read(folder / config.STORE) as store:
        known = history(store.run(folder.name))
        targets = known.targets
        here = [t for t in targets if t.device == device and t.runtime == runtime]
        front = table.pareto_table(known, here[0].name).query("nominal") if here else None
    if front is None or front.empty:
        names = ", ".join(t.name for t in targets)
        raise ConfigError(f"run {folder.name}: no front on {device} with {runtime}; its targets: {names}")
    return int(front["trial"].iloc[0])


def _target(args: argparse.Namespace, side: Side) -> Target:
    file_format = side.file.artifact.file_format
    runtime = next(runtime for runtime, known in FORMATS.items() if known == file_format)
    return Target(args.on, runtime, side.file.artifact.precision, options_of(args))
