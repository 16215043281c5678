"""Runtimes for boards: what exists, what is fetched and checked, what ends up there.

The index is the real one, asked through pip; the board is this machine with a home of its own and a
Python that has no packages at all.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices import smoke, unpack
from devices.connection import Completed
from devices.device import DeviceEntry
from devices.interpreter import Interpreter, look, require
from devices.local import LocalConnection
from devices.provision import provision
from devices.wheel_index import Wheel, obtain
from devices.wheels import Offer, offers, platform_tags, runtimes_for
from results.errors import BoardDiskFull, ConfigError, PreflightError, ProtocolError, ProvisionError

PI5 = Interpreter((3, 11, 2), "CPython", "aarch64", (2, 36))
BOTH = {"onnxruntime": ["onnxruntime"], "tflite": ["ai-edge-litert", "tflite-runtime"]}
NEWER = {"onnxruntime": ["onnxruntime"], "tflite": ["ai-edge-litert"]}
OLDER = {"onnxruntime": ["onnxruntime"], "tflite": ["tflite-runtime"]}
PI_32_BIT = Interpreter((3, 11, 2), "CPython", "armv7l", (2, 36), numpy="1.24.2")
FOLDER = ".cache/boardwise/1/runtimes"


def packages(interpreter: Interpreter, runtime: str) -> list[str]:
    return list(dict.fromkeys(offer.package for offer in offers("board", interpreter, runtime, None)))


# --------------------------------------------------------------------------- which wheels exist


@pytest.mark.parametrize(
    ("python", "machine", "glibc", "runtimes"),
    [
        ((3, 11, 2), "aarch64", (2, 36), BOTH),
        ((3, 13, 5), "aarch64", (2, 41), NEWER),
        ((3, 8, 10), "aarch64", (2, 31), OLDER),
        ((3, 11, 2), "aarch64", (2, 31), NEWER),
        ((3, 12, 3), "aarch64", (2, 26), {"tflite": ["ai-edge-litert"]}),
        ((3, 9, 2), "armv7l", (2, 31), {"tflite": ["tflite-runtime"]}),
        ((3, 11, 2), "armv7l", (2, 36), {"tflite": ["tflite-runtime"]}),
        ((3, 13, 5), "armv7l", (2, 41), {}),
        ((3, 11, 2), "armv6l", (2, 36), {}),
        ((3, 11, 7), "x86_64", (2, 36), BOTH),
    ],
)
def test_what_exists_for_a_board(
    python: tuple[int, int, int], machine: str, glibc: tuple[int, int], runtimes: dict[str, list[str]]
) -> None:
    interpreter = Interpreter(python, "CPython", machine, glibc, numpy="1.24.2")
    assert {runtime: packages(interpreter, runtime) for runtime in runtimes_for(interpreter)} == runtimes


@pytest.mark.parametrize(
    ("changes", "runtime", "message"),
    [
        ({}, "onnxruntime", r"no wheel of onnxruntime .*armv7l.*exists for it: tflite \(tflite-runtime\)"),
        ({"version": (3, 13, 5)}, "tflite", r"for armv7l there is only tflite-runtime \(Python 3.8 to 3.11"),
        ({"machine": "armv6l"}, "tflite", "no runtime at all for armv6l: the board is not supported"),
        ({"numpy": None}, "tflite", r"none of its own; install it there .*python3-numpy"),
        ({"machine": "aarch64", "free_threaded": True}, "tflite", "no wheel of tflite exists"),
    ],
)
def test_a_board_without_a_wheel_is_told_what_there_is(
    changes: dict[str, Any], runtime: str, message: str
) -> None:
    with pytest.raises(ProvisionError, match=message):
        offers("board", dataclasses.replace(PI_32_BIT, **changes), runtime, None)


def test_older_releases_are_tried_after_the_newest_but_not_instead_of_a_named_one() -> None:
    assert [offer.version for offer in offers("board", PI5, "onnxruntime", None)] == [
        None,
        "1.24.4",
        "1.23.2",
    ]
    assert [offer.version for offer in offers("board", PI5, "onnxruntime", "1.20.0")] == ["1.20.0"]


def test_tags_are_those_of_the_board_and_older() -> None:
    tags = platform_tags("aarch64", (2, 28))
    assert tags[0] == "manylinux_2_28_aarch64"
    assert tags[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert "manylinux_2_29_aarch64" not in tags
    assert platform_tags("x86_64", (2, 36))[-1] == "manylinux1_x86_64"


# --------------------------------------------------------------------------- what a Python is


class Answering(LocalConnection):
    """This machine, but every command gives one answer."""

    def __init__(self, *, returncode: int = 0, stdout: str = "", stderr: str = "") -> None:
        super().__init__("board")
        self._answer = Completed(returncode, stdout.encode(), stderr.encode())

    def run(self, argv: object, *, limit_s: float = 30.0, stdin: bytes = b"") -> Completed:
        return self._answer


def described(**changes: object) -> str:
    answer = {
        "version": [3, 11, 2],
        "implementation": "CPython",
        "machine": "aarch64",
        "bits": 64,
        "libc": "glibc 2.36",
        "numpy": None,
        "free_threaded": False,
    }
    return "Welcome!\n" + json.dumps(answer | changes) + "\n"


def test_this_machines_python_is_told() -> None:
    with LocalConnection("here") as connection:
        interpreter = look(connection, sys.executable)
    assert interpreter.version == sys.version_info[:3]
    assert interpreter.machine == os.uname().machine
    assert interpreter.numpy == np.__version__
    assert " ".join(map(str, interpreter.glibc or ())) == os.confstr("CS_GNU_LIBC_VERSION").split()[
        1
    ].replace(".", " ")
    require("here", interpreter)


def test_a_32_bit_system_on_a_64_bit_kernel_counts_as_32_bit() -> None:
    assert look(Answering(stdout=described(bits=32)), "python3").machine == "armv7l"


def test_a_board_without_python_is_told_plainly() -> None:
    with LocalConnection("board") as connection, pytest.raises(PreflightError) as caught:
        look(connection, "/nowhere/python3")
    assert str(caught.value).startswith("board: there is no Python at '/nowhere/python3'")
    assert "not supported" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": [2, 7, 18]}, r"Python 2.7.18 .*too old.*3\.8"),
        ({"version": [3, 7, 3]}, r"Python 3.7.3 .*too old.*--python"),
        ({"implementation": "PyPy"}, "PyPy is not supported"),
        ({"libc": None}, "musl systems are not supported"),
    ],
)
def test_a_python_without_support_is_refused(changes: dict[str, object], message: str) -> None:
    interpreter = look(Answering(stdout=described(**changes)), "python3")
    with pytest.raises(PreflightError, match=message):
        require("board", interpreter)


@pytest.mark.parametrize("stdout", ["", "hello", "[]", "{}", '{"version": "3"}', "null"])
def test_nonsense_instead_of_an_answer_is_refused(stdout: str) -> None:
    with pytest.raises(ProtocolError, match="is it Python"):
        look(Answering(stdout=stdout), "python3")


def test_a_python_that_does_not_start_is_refused() -> None:
    with pytest.raises(PreflightError, match=r"exit status 1.*libz missing"):
        look(Answering(returncode=1, stderr="libz missing"), "python3")


# --------------------------------------------------------------------------- fetching and checking


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_wheels_of_another_machine_are_fetched_by_hash_and_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = Offer("tflite", "tflite-runtime", "2.14.0")
    wheels, folder = obtain("board", offer, PI_32_BIT, tmp_path)
    assert [wheel.filename for wheel in wheels] == [
        "tflite_runtime-2.14.0-cp311-cp311-manylinux_2_34_armv7l.whl"
    ]
    data = (folder / wheels[0].filename).read_bytes()
    assert hashlib.sha256(data).hexdigest() == wheels[0].sha256
    lock = tmp_path / "locks" / "cp311-armv7l-glibc2.36" / "tflite-runtime-2.14.0.json"
    assert [Wheel(**item) for item in json.loads(lock.read_text())] == wheels

    # What is locked and there needs no index any more.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert obtain("board", offer, PI_32_BIT, tmp_path)[0] == wheels

    (folder / wheels[0].filename).write_bytes(data[:-1] + b"x")
    with pytest.raises(ProvisionError, match=rf"has SHA-256 .*{wheels[0].sha256} was promised.*delete it"):
        obtain("board", offer, PI_32_BIT, tmp_path)

    monkeypatch.delenv("PIP_INDEX_URL")
    (folder / wheels[0].filename).unlink()
    lock.write_text(lock.read_text().replace(wheels[0].sha256, "0" * 64))
    with pytest.raises(ProvisionError, match="another file than the one that was locked"):
        obtain("board", offer, PI_32_BIT, tmp_path)


def test_an_index_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ProvisionError, match="index cannot be reached from this host"):
        obtain("board", Offer("tflite", "tflite-runtime", "2.14.0"), PI_32_BIT, tmp_path)


def test_a_damaged_lock_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "cp311-armv7l-glibc2.36" / "tflite-runtime-2.14.0.json"
    lock.parent.mkdir(parents=True)
    lock.write_text("[{")
    with pytest.raises(ProvisionError, match=r"2.14.0.json: not a lock file.*delete it"):
        obtain("board", Offer("tflite", "tflite-runtime", "2.14.0"), PI_32_BIT, tmp_path)


# --------------------------------------------------------------------------- unpacking


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wheel(path: Path, *names: str, link: str = "") -> tuple[str, Path]:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
    return hashlib.sha256(path.read_bytes()).hexdigest(), path


def run_unpack(target: Path, *wheels: tuple[str, Path]) -> dict[str, object]:
    """Unpacks as on a board: the source on stdin of a bare Python."""
    arguments = [text for sha256, path in wheels for text in (sha256, str(path))]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-", str(target), *arguments],
        input=Path(unpack.__file__).read_bytes(),
        capture_output=True,
        check=True,
    )
    answer = json.loads(done.stdout.decode().splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def test_wheels_are_unpacked_together_and_removed(tmp_path: Path) -> None:
    one = wheel(tmp_path / "1.whl", "a/__init__.py", "a-1.data/purelib/b.py", "a-1.data/scripts/run")
    two = wheel(tmp_path / "2.whl", "c.py")
    target = tmp_path / "runtimes" / "a-1"
    assert run_unpack(target, one, two) == {"ok": True}
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == ["a/__init__.py", "b.py", "boardwise.json", "c.py"]
    assert not one[1].exists()
    assert not two[1].exists()
    assert names(target.parent) == ["a-1"]


def test_an_older_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a-1"
    assert run_unpack(target, wheel(tmp_path / "1.whl", "old.py")) == {"ok": True}
    assert run_unpack(target, wheel(tmp_path / "2.whl", "new.py")) == {"ok": True}
    assert names(target) == ["boardwise.json", "new.py"]
    assert names(tmp_path) == ["a-1"]


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "a//b", "./a", "a\\b"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "runtimes" / "a-1"
    answer = run_unpack(target, wheel(tmp_path / "1.whl", "good.py", name))
    assert answer["error"] == "wheel"
    assert "outside" in str(answer["message"])
    assert names(tmp_path / "runtimes") == []


def test_links_are_refused(tmp_path: Path) -> None:
    answer = run_unpack(tmp_path / "r" / "a-1", wheel(tmp_path / "1.whl", "good.py", link="link"))
    assert answer == {"error": "wheel", "message": "'link' is no plain file"}
    assert names(tmp_path / "r") == []


def test_a_wheel_that_was_damaged_on_its_way_is_refused(tmp_path: Path) -> None:
    sha256, path = wheel(tmp_path / "1.whl", "good.py")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    answer = run_unpack(tmp_path / "r" / "a-1", (sha256, path))
    assert answer["error"] == "wheel"
    assert "damaged on its way" in str(answer["message"])
    assert not path.exists()


def test_no_room_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = wheel(tmp_path / "1.whl", "good.py")
    monkeypatch.setattr(unpack, "SPARE_BYTES", 1 << 60)
    with pytest.raises(OSError, match=r"free disk"):
        unpack.unpack(tmp_path / "r" / "a-1", [one])
    assert names(tmp_path / "r") == []


def test_the_unpacker_runs_on_python_3_8() -> None:
    source = Path(unpack.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    done = subprocess.run(
        [Path(sys.executable).with_name("vermin"), "-t=3.8-", "--violations", unpack.__file__],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# --------------------------------------------------------------------------- end to end


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_the_smoke_models_compute_what_they_say(file_format: str) -> None:
    data = smoke.model(file_format)
    x = np.array([smoke.INPUTS], dtype=np.float32)
    if file_format == "onnx":
        import onnxruntime

        y = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    else:
        from ai_edge_litert.interpreter import Interpreter as Lite

        interpreter = Lite(model_content=data)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert y.tolist() == [list(smoke.OUTPUTS)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalConnection, DeviceEntry]:
    """This machine as a fresh board: a home of its own, a Python without any package."""
    home = tmp_path_factory.mktemp("home")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    return LocalConnection("bare", home=home), DeviceEntry("bare", "local", python="venv/bin/python")


def home_of(connection: LocalConnection) -> Path:
    return Path(connection.run(["pwd"]).stdout.decode().strip())


@pytest.mark.slow
def test_a_runtime_comes_to_a_bare_board_and_runs_there(
    bare: tuple[LocalConnection, DeviceEntry], cache: Path
) -> None:
    connection, entry = bare
    assert connection.run([entry.python, "-c", "import numpy"]).returncode != 0
    said: list[str] = []
    # ai-edge-litert has no such release, so the other package is taken.
    brought = provision(connection, entry, "tflite", version="2.14.0", cache=cache, say=said.append)
    assert (brought.package, brought.version, brought.folder) == (
        "tflite-runtime",
        "2.14.0",
        f"{FOLDER}/tflite-runtime-2.14.0",
    )
    assert brought.numpy.startswith("1.")
    assert brought.size_bytes > 1e6
    assert any("ai-edge-litert" in reason for reason in brought.skipped)
    assert any(text.startswith("carrying over tflite_runtime-2.14.0") for text in said)
    home = home_of(connection)
    assert names(home / ".cache/boardwise/1/incoming") == []

    again = provision(connection, entry, "tflite", version="2.14.0", cache=cache, say=said.append)
    assert again.size_bytes == 0
    assert "tflite-runtime-2.14.0 is there already" in said

    other = home / FOLDER / "tflite-runtime-2.13.0"
    other.mkdir()
    provision(connection, entry, "tflite", version="2.14.0", beside=True, cache=cache)
    assert other.exists()
    (home / FOLDER / "tflite-runtime-2.14.0" / unpack.MARKER).unlink()
    assert provision(connection, entry, "tflite", version="2.14.0", cache=cache).size_bytes > 1e6
    assert not other.exists()


def test_a_runtime_that_does_not_start_is_taken_away_again(
    bare: tuple[LocalConnection, DeviceEntry], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, entry = bare
    monkeypatch.setattr(smoke, "model", lambda file_format: b"no model at all")
    with pytest.raises(
        ProvisionError, match=r"no tflite works on Python.*2.14.0 is installed but does not run"
    ):
        provision(connection, entry, "tflite", version="2.14.0", cache=cache)
    assert not (home_of(connection) / FOLDER / "tflite-runtime-2.14.0").exists()


def test_a_full_disk_is_told_as_such(
    bare: tuple[LocalConnection, DeviceEntry], cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection, entry = bare
    full = tmp_path / "unpack.py"
    full.write_text(Path(unpack.__file__).read_text().replace("32 << 20", "1 << 60"))
    monkeypatch.setattr(unpack, "__file__", str(full))
    with pytest.raises(BoardDiskFull, match="free disk"):
        provision(connection, entry, "tflite", version="2.14.0", cache=cache)


def test_an_unknown_runtime_is_answered_with_the_nearest(bare: tuple[LocalConnection, DeviceEntry]) -> None:
    with pytest.raises(ConfigError, match="unknown runtime 'tflit'; did you mean 'tflite'"):
        provision(*bare, "tflit")


def test_a_release_that_does_not_exist_is_told(
    bare: tuple[LocalConnection, DeviceEntry], cache: Path
) -> None:
    with pytest.raises(ProvisionError, match=r"no onnxruntime works on .*onnxruntime==0.0.1"):
        provision(*bare, "onnxruntime", version="0.0.1", cache=cache)


@pytest.mark.slow
def test_the_newest_onnxruntime_comes_with_everything_it_needs(
    bare: tuple[LocalConnection, DeviceEntry], cache: Path
) -> None:
    connection, entry = bare
    brought = provision(connection, entry, "onnxruntime", cache=cache)
    program = (
        f"import sys; sys.path.insert(0, {brought.folder!r}); import onnxruntime as o; print(o.__version__)"
    )
    done = connection.run([entry.python, "-c", program])
    assert done.stdout.decode().strip() == brought.version


def test_the_next_release_is_brought_where_one_does_not_start(
    bare: tuple[LocalConnection, DeviceEntry], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, entry = bare
    broken, good = (Offer("tflite", "tflite-runtime", version) for version in ("2.15.0", "2.14.0"))
    interpreter = look(connection, entry.python)
    obtain("bare", good, interpreter, cache)
    [lock] = (cache / "locks").glob("*/tflite-runtime-2.14.0.json")
    file = cache / "files" / "tflite_runtime-2.15.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tflite_runtime/interpreter.py", "raise ImportError('built for another CPU')\n")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    wheels = [Wheel("tflite-runtime", "2.15.0", file.name, sha256)]
    lock.with_name("tflite-runtime-2.15.0.json").write_text(
        json.dumps([dataclasses.asdict(w) for w in wheels])
    )

    monkeypatch.setattr("devices.provision.offers", lambda *arguments: [broken, good])
    brought = provision(connection, entry, "tflite", cache=cache)
    assert brought.version == "2.14.0"
    assert len(brought.skipped) == 1
    assert "tflite-runtime-2.15.0 is installed but does not run a model" in brought.skipped[0]
    assert "built for another CPU" in brought.skipped[0]
    kept = [name for name in names(home_of(connection) / FOLDER) if name.startswith("tflite")]
    assert kept == ["tflite-runtime-2.14.0"]
