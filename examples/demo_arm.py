"""`make demo-arm`: a small study on two emulated ARM boards, one 64-bit with both runtimes, one 32-bit.

No board is needed: the first run builds both boards' images from Debian packages and wheels, later ones
take them from the cache.  The figures repeat, but say nothing of any real board.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from devices.registry import Lab
from examples.demo import ROOT, RUNS
from harness import cli, config
from harness.board import Board
from harness.export import export
from harness.host import Host
from harness.measure import Job, measure
from harness.study import Study, read_study
from results.errors import BoardwiseError, ConfigError
from results.records import Target
from results.statistics import latency
from search.network import Network, initial_weights

FOLDER = ROOT / ".demo"
PROFILES = ("pi4", "armv7")
LOOKED_AT = 10
"""Random candidates by which the limits are set."""

SHARE_WITHIN = 0.8
"""Share of them that a limit lets through."""


def main() -> int:
    """Runs the demo; returns the exit code."""
    started = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    lab = FOLDER / "lab-arm.toml"
    subprocess.run(["sh", str(ROOT / "tests" / "prepare.sh"), "qemu"], check=False, cwd=ROOT)
    try:
        for profile in PROFILES:
            print(f"$ boardwise devices emulate {profile} --lab {lab}", flush=True)
            if code := cli.main(["devices", "emulate", profile, "--lab", str(lab)]):
                return code
        study = _study_with_limits(ROOT / "examples" / "demo_arm.toml", lab)
        code = cli.main(["search", str(study), "--lab", str(lab), "--runs", str(RUNS)])
    except BoardwiseError as error:
        print(f"demo-arm: {error}", file=sys.stderr)
        return 1
    finally:
        for profile in PROFILES:
            cli.main(["devices", "emulate", profile, "--stop", "--lab", str(lab)])
    print(f"demo-arm: done in {time.monotonic() - started:.0f} s, installation of packages not counted")
    return code


def _study_with_limits(template: Path, lab: Path) -> Path:
    """The study with a limit per target, from a first look at random candidates on the boards."""
    study = read_study(template)
    space = config.space_of(study, config.task_of(study))
    rng = np.random.default_rng(2026)
    networks = [space.build(space.sample(rng)) for _ in range(LOOKED_AT)]
    text = template.read_text()
    for device in dict.fromkeys(target.device for target in study.targets):
        board = config.board_of(Lab.load(lab).entry(device), "boardwise demo", Host())
        try:
            for target in (target for target in study.targets if target.device == device):
                print(f"demo-arm: {target.name}: looking at {LOOKED_AT} random networks", flush=True)
                limit_ms = 1e3 * _limit_s(study, board, target, networks)
                print(f"demo-arm: {target.name}: limit set to {limit_ms:.3g} ms (p90)", flush=True)
                line = f'limits = ["latency_p90 <= {limit_ms:.3g} ms"]'
                text = text.replace(f"# limits of {target.runtime} on {target.device}", line)
        finally:
            board.close()
    path = FOLDER / "demo-arm.toml"
    path.write_text(text)
    return path


def _limit_s(study: Study, board: Board, target: Target, networks: list[Network]) -> float:
    figures = []
    for network in networks:
        file = export(network, initial_weights(network, 0), target.file_format)
        measured = latency(measure(board, Job(file.artifact, file.data, target, study.screen)), 0.9)
        if measured is None:
            raise ConfigError(f"the screen's min_runs = {study.screen.min_runs} is too few for a p90")
        figures.append(measured.value)
    return float(np.quantile(figures, SHARE_WITHIN))


if __name__ == "__main__":
    sys.exit(main())
