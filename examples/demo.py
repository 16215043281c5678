"""`make demo`: a small study on real data, measured on this machine over a real SSH connection.

A private OpenSSH server with throw-away keys stands in for a board on the desk; everything else is what
a study does on any board.  The limits are set from a first look at this machine, so that part of the
space breaks them, whatever machine it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from devices.registry import Lab
from examples.private_sshd import PrivateSshd, find_sshd
from harness import cli, config
from harness.export import export
from harness.host import Host
from harness.measure import Job, measure
from harness.study import Study, read_study
from results.errors import BoardwiseError, ConfigError
from results.statistics import latency
from search.network import initial_weights

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".demo"
RUNS = ROOT / "runs"
DEVICE = "this-machine"
LOOKED_AT = 20
"""Random candidates by which the limits are set."""

SHARE_WITHIN = 0.85
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
    print(
        f"demo: done in {time.monotonic() - started:.0f} s, installation not counted; "
        f"peak memory of this process {_peak_memory_bytes() / 1e6:.0f} MB, training processes aside"
    )
    return code


def _peak_memory_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def _device(lab: Path) -> Iterator[None]:
    """Registers this machine in a lab file of its own: over SSH, or directly where there is no server."""
    lab.unlink(missing_ok=True)
    add = ["devices", "add", DEVICE]
    options = ["--python", sys.executable, "--lab", str(lab)]
    with ExitStack() as stack:
        server = _server(stack)
        if server is None:
            _run([*add, "--local", *options])
        else:
            print(f"demo: a private OpenSSH server ({find_sshd()}) listens on {server.address}")
            # Pinned beside the lab file, where Boardwise keeps the keys it trusts.
            shutil.copy(server.known_hosts, Lab.load(lab).known_hosts)
            _run([*add, server.address, "--identity-file", str(server.identity_file), *options])
        yield


def _server(stack: ExitStack) -> PrivateSshd | None:
    """A private server; installed where there is none and that is allowed."""
    for attempt in ("as it is", "installed"):
        try:
            return stack.enter_context(PrivateSshd(FOLDER / "sshd"))
        except ConfigError as error:
            print(f"demo: {error}")
        if attempt == "as it is":
            subprocess.run(["sh", str(ROOT / "tests" / "prepare.sh"), "ssh"], check=False, cwd=ROOT)
    print("demo: going on with the local connection instead")
    return None


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
    board = config.board_of(entry, "boardwise demo", Host())
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
            text = text.replace(
                _placeholder(study, target.runtime), f'limits = ["latency_p90 <= {limit_ms:.3g} ms"]'
            )
    finally:
        board.close()
    path = FOLDER / "demo.toml"
    path.write_text(text)
    return path


def _placeholder(study: Study, runtime: str) -> str:
    return f"# limits of {runtime} on {study.targets[0].device}"


if __name__ == "__main__":
    sys.exit(main())
