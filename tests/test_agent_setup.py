"""Starting the agent on boards that are not as one would wish, and the archive that is carried to them."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import vermin

from devices import agent_client
from devices.agent import options
from devices.agent.packages import plugin, runtime_names
from devices.agent_archive import PACKAGE, archive
from devices.agent_client import AgentClient
from results.errors import ConnectionLost, PreflightError, ProtocolError, RuntimeMissing
from results.records import FORMATS
from tests.fixtures_agent import LITERT, ORT, QUICK, bare_python, put, script, start
from tests.tiny_models import artifact_of, onnx_convolution

ONLY_CHECKS = f'case "$1" in -c) exec "{sys.executable}" "$@";; esac'
"""A stand-in for Python that is one as long as it is only asked for its version."""

AGENT = Path(agent_client.__file__).with_name("agent")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[AgentClient]:
    """An agent on a board without any runtime."""
    with start(tmp_path / "board", python=bare_python(tmp_path)) as agent:
        yield agent


@pytest.fixture
def runtimes(tmp_path: Path) -> Path:
    """Where runtimes are provisioned."""
    folder = tmp_path / "board" / ".cache" / "boardwise" / "1" / "runtimes"
    folder.mkdir(parents=True)
    return folder


def run(agent: AgentClient):
    data = onnx_convolution()
    return agent.session(put(agent, artifact_of(data, "onnx"), data), ORT, QUICK)


# --------------------------------------------------------------------------- the archive


def test_the_archive_is_the_same_bytes_every_time() -> None:
    source = "from devices.agent_archive import archive; print(archive().sha256)"
    other = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == archive().sha256
    with zipfile.ZipFile(io.BytesIO(archive().data)) as file:
        names = file.namelist()
    assert {"__main__.py", f"{PACKAGE}/__main__.py", f"{PACKAGE}/runtimes/tflite.py"} <= set(names)


@pytest.mark.parametrize("path", sorted(AGENT.rglob("*.py")), ids=lambda path: path.name)
def test_the_agent_needs_no_more_than_python_3_8(path: Path) -> None:
    _, least = vermin.detect(path.read_text(), path=str(path))
    assert least is None or least <= (3, 8)


def test_that_check_would_notice_newer_python() -> None:
    assert vermin.detect("'a'.removeprefix('b')")[1] == (3, 9)


@pytest.mark.parametrize("name", runtime_names())
def test_every_runtime_keeps_the_contract(name: str) -> None:
    runtime = plugin(name)
    for distribution, module in runtime.PACKAGES:
        assert distribution
        assert module.isidentifier()
    assert options.read(name, runtime.OPTIONS, {})["threads"] == 1
    assert options.read(name, runtime.OPTIONS, {"threads": 4})["threads"] == 4
    assert "package" not in runtime.OPTIONS, "taken: it chooses among PACKAGES"
    assert list(inspect.signature(runtime.load).parameters) == ["module"]
    assert list(inspect.signature(runtime.open_model).parameters) == ["library", "path", "options"]
    assert name in FORMATS


# --------------------------------------------------------------------------- Python


def test_a_board_without_python_is_not_supported(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"not supported.*Python >= 3\.8.*no 'python9'"):
        start(tmp_path, python="python9")


@pytest.mark.parametrize("version", ["2.7", "3.7"])
def test_a_python_that_is_too_old_is_not_supported(tmp_path: Path, version: str) -> None:
    old = script(tmp_path / "python", f"echo boardwise {version}", "echo boardwise missing")
    with pytest.raises(PreflightError, match=rf"not supported.*Python >= 3\.8.*is {version}"):
        start(tmp_path / "board", python=old)


def test_a_python_that_does_not_work_is_quoted(tmp_path: Path) -> None:
    broken = script(tmp_path / "python", "echo 'libpython3.9.so: cannot open' >&2", "exit 1")
    with pytest.raises(PreflightError, match="does not work there: libpython"):
        start(tmp_path / "board", python=broken)


def test_what_a_login_prints_is_passed_over(tmp_path: Path) -> None:
    chatty = script(tmp_path / "python", "echo 'Welcome to board!'", f'exec "{sys.executable}" "$@"')
    with start(tmp_path / "board", python=chatty) as agent:
        agent.ping()


def test_a_login_that_never_stops_printing_is_no_agent(tmp_path: Path) -> None:
    lines = [ONLY_CHECKS, "exec yes nonsense"]
    with pytest.raises(ProtocolError, match="no agent speaks, but somebody who says 'nonsense"):
        start(tmp_path / "board", python=script(tmp_path / "python", *lines))


def test_an_agent_that_dies_at_once_is_lost_with_its_last_words(tmp_path: Path) -> None:
    lines = [ONLY_CHECKS, "echo no more memory >&2"]
    with pytest.raises(ConnectionLost, match="the agent ended: no more memory"):
        start(tmp_path / "board", python=script(tmp_path / "python", *lines))


# --------------------------------------------------------------------------- runtimes


def test_a_runtime_that_is_not_there_names_the_remedy(bare: AgentClient) -> None:
    assert bare.probe().runtimes == {}
    with pytest.raises(RuntimeMissing, match=r"onnxruntime.*`boardwise devices setup desk`"):
        run(bare)
    bare.ping()


def test_a_provisioned_runtime_is_found(bare: AgentClient, runtimes: Path) -> None:
    site_packages = Path(onnxruntime.__file__).parents[1]
    (runtimes / "onnxruntime-1.0").mkdir()
    (runtimes / "onnxruntime-10.0").symlink_to(site_packages)
    assert bare.probe().runtimes["onnxruntime"] == onnxruntime.__version__
    assert run(bare).ran_on.version == onnxruntime.__version__


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('built for another numpy')", "cannot import onnxruntime: ImportError: built for"),
        ("raise SystemError('no AVX')", "SystemError: no AVX"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", r"ends the process \(SIGILL\)"),
        ("import os; os._exit(3)", r"ends the process \(status 3\)"),
        ("print('hello world' * 10000); raise ImportError('printed')", "printed"),
    ],
)
def test_a_runtime_that_cannot_be_imported_says_why(
    bare: AgentClient, runtimes: Path, source: str, reason: str
) -> None:
    (runtimes / "onnxruntime-1.0").mkdir()
    (runtimes / "onnxruntime-1.0" / "onnxruntime.py").write_text(source + "\n")
    with pytest.raises(RuntimeMissing, match=reason):
        run(bare)
    bare.ping()


def test_where_one_place_fails_the_next_is_tried(bare: AgentClient, runtimes: Path) -> None:
    (runtimes / "onnxruntime-11.0").mkdir()
    (runtimes / "onnxruntime-11.0" / "onnxruntime.py").write_text(
        "raise ImportError('built for another Python')\n"
    )
    (runtimes / "onnxruntime-10.0").symlink_to(Path(onnxruntime.__file__).parents[1])
    assert run(bare).ran_on.version == onnxruntime.__version__


def test_a_runtime_that_hangs_when_it_is_imported_is_ended(
    bare: AgentClient, runtimes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_client, "RUNTIME_LIMIT_S", 0.3)
    (runtimes / "onnxruntime-1.0").mkdir()
    (runtimes / "onnxruntime-1.0" / "onnxruntime.py").write_text("import time; time.sleep(600)\n")
    with pytest.raises(RuntimeMissing, match=r"could not be imported in 0\.3 s"):
        run(bare)
    bare.ping()


def test_sessions_that_end_before_they_begin_do_not_convict_the_file(
    bare: AgentClient, runtimes: Path
) -> None:
    (runtimes / "onnxruntime-1.0").mkdir()
    (runtimes / "onnxruntime-1.0" / "onnxruntime.py").write_text(
        "import os, signal, sys\n"
        f"sys.path.append({str(Path(onnxruntime.__file__).parents[1])!r})\n"  # NumPy
        "def set_default_logger_severity(level): pass\n"
        "os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    with pytest.raises(ConnectionLost, match="end before they begin, with SIGKILL"):
        run(bare)
    bare.ping()


def test_tflite_runtime_with_numpy_2_is_refused_before_it_fails(bare: AgentClient, runtimes: Path) -> None:
    folder = runtimes / "tflite-runtime-2.14.0"
    (folder / "tflite_runtime").mkdir(parents=True)
    (folder / "tflite_runtime" / "__init__.py").write_text("")
    (folder / "numpy.py").write_text("__version__ = '2.4.6'\n")
    data = onnx_convolution()
    artifact = put(bare, artifact_of(data, "onnx"), data)
    with pytest.raises(RuntimeMissing, match=r"needs numpy < 2, and numpy is 2\.4\.6"):
        bare.session(artifact, LITERT, QUICK)
