"""`make demo`: a small study on real data, measured on this machine over a real SSH connection.

A private OpenSSH server with throw-away keys stands in for a board on the desk; everything else is what
a study does on any board.  The limits are set from a first look at this machine, so that about half of
the space breaks them, whatever machine it is.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from devices.registry import Lab
from examples.private_sshd import PrivateSshd, find_sshd
from harness import cli, config
from harness.board import Board
from harness.export import export
from harness.host import Host
from harness.measure import Job, measure
from harness.study import Study, read_study
from results.errors import BoardwiseError
from results.statistics import latency
from search.network import initial_weights

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".demo"
RUNS = ROOT / "runs"
DEVICE = "this-machine"
LOOKED_AT = 12
"""Random candidates by which the limits are set."""

SHARE_WITHIN = 0.5
"""Share of them that the limit lets through."""


def main() -> int:
    """Runs the demo; returns the exit code."""
    started = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    lab = FOLDER / "lab.toml"
    try:
        with _device(lab):
            study = _study_with_limits(ROOT / "examples" / "demo.toml", lab)
            code = cli.main(["search", str(study), "--lab", str(lab), "--runs", str(RUNS)])
    except BoardwiseError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"demo: done in {time.monotonic() - started:.0f} s, installation not counted")
    return code


@contextmanager
def _device(lab: Path) -> Iterator[None]:
    """Registers this machine in a lab file of its own: over SSH, or directly where there is no server."""
    lab.unlink(missing_ok=True)
    if not _have_sshd():
        print("demo: no OpenSSH server here and none may be installed; using the local connection instead")
        _run(["devices", "add", DEVICE, "--local", "--python", sys.executable, "--lab", str(lab)])
        yield
        return
    with PrivateSshd(FOLDER / "sshd") as server:
        print(f"demo: a private OpenSSH server listens on 127.0.0.1:{server.port}")
        address = f"{getpass.getuser()}@127.0.0.1:{server.port}"
        command = ["devices", "add", DEVICE, address, "--python", sys.executable, "--lab", str(lab)]
        command += ["--identity-file", str(server.identity_file), "--fingerprint", server.fingerprint]
        _run(command)
        yield


def _have_sshd() -> bool:
    if find_sshd() is None and shutil.which("apt-get"):
        subprocess.run(["sh", str(ROOT / "tests" / "prepare.sh")], check=False, cwd=ROOT)
    return find_sshd() is not None


def _run(argv: list[str]) -> None:
    print(f"$ boardwise {' '.join(argv)}")
    code = cli.main(argv)
    if code:
        sys.exit(code)


def _study_with_limits(template: Path, lab: Path) -> Path:
    """The demo's study with a limit per target, from a first look at random candidates on this machine."""
    study = read_study(template)
    task = config.task_of(study)
    space = config.space_of(study, task)
    rng = np.random.default_rng(2026)
    networks = [space.build(space.sample(rng)) for _ in range(LOOKED_AT)]
    entry = Lab.load(lab).entry(DEVICE)
    board = Board(DEVICE, config.agent_starter(entry, "boardwise demo", None), Host())
    text = template.read_text()
    try:
        for target in study.targets:
            figures = []
            for network in networks:
                file = export(network, initial_weights(network, 0), target.file_format)
                measured = latency(measure(board, Job(file.artifact, file.data, target, study.screen)), 0.9)
                figures.append(measured.value if measured else np.inf)
            limit_ms = float(np.quantile(figures, SHARE_WITHIN)) * 1e3
            print(
                f"demo: {target.name}: {LOOKED_AT} random candidates take {min(figures) * 1e3:.2f} to "
                f"{max(figures) * 1e3:.2f} ms (p90); limit set to {limit_ms:.3g} ms"
            )
            text = text.replace(_placeholder(study, target.runtime), f'limits = ["latency_p90 <= {limit_ms:.3g} ms"]')
    finally:
        board.close()
    path = FOLDER / "demo.toml"
    path.write_text(text)
    return path


def _placeholder(study: Study, runtime: str) -> str:
    return f"# limits of {runtime} on {study.targets[0].device}"


if __name__ == "__main__":
    sys.exit(main())
