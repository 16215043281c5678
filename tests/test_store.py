"""The store: what was acknowledged is there afterwards, whatever happens; nothing is stored twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from results import database
from results.blobs import name_of
from results.errors import StoreError
from results.records import Fidelity
from results.store import BLOB_IN_TABLE_BYTES, Store
from results.upgrades import SCHEMA, UPGRADES, upgrade

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "runs" / "demo.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A fresh store."""
    with Store.open(path) as opened:
        yield opened


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that runs a script with our packages at hand."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


# --------------------------------------------------------------------------- runs and records


def test_what_was_appended_is_there_after_opening_again(path: Path) -> None:
    with Store.open(path) as store:
        run = store.begin("demo", {"seed": 3})
        run.append("asked", "0", {"fidelity": Fidelity(3), "choices": (1, 2)})
        run.append("told", "0", {"state": "complete"})
    with Store.open(path) as store:
        run = store.run("demo")
        assert run.config == {"seed": 3}
        body = {"fidelity": {"epochs": 3, "subset": 1.0, "width": 1.0, "resolution": None}, "choices": [1, 2]}
        assert run.get("asked", "0") == body
        assert [(r.kind, r.key) for r in run.records()] == [("asked", "0"), ("told", "0")]
        assert [r.body for r in run.records("told")] == [{"state": "complete"}]
        assert run.records()[0].seq < run.records()[1].seq
        assert run.get("told", "1") is None


def test_the_same_again_is_a_no_op_and_another_body_an_error(store: Store) -> None:
    run = store.begin("demo", {})
    run.append("told", "0", {"a": 1, "b": [1.5, None]})
    run.append("told", "0", {"b": (1.5, None), "a": 1})
    with pytest.raises(StoreError, match="another 'told' record under '0'"):
        run.append("told", "0", {"a": 2})
    assert [r.body for r in run.records()] == [{"a": 1, "b": [1.5, None]}]


def test_runs_do_not_see_each_other(store: Store) -> None:
    first, second = store.begin("first", {}), store.begin("second", {})
    first.append("told", "0", 1)
    second.append("told", "0", 2)
    assert (first.get("told", "0"), second.get("told", "0")) == (1, 2)
    assert store.runs() == ["first", "second"]


def test_run_names_are_free_known_and_plain(store: Store) -> None:
    store.begin("demo", {})
    with pytest.raises(StoreError, match="there is a run 'demo' already"):
        store.begin("demo", {})
    with pytest.raises(StoreError, match="did you mean 'demo'"):
        store.run("dmeo")
    with pytest.raises(StoreError, match="cannot be called"):
        store.begin("../demo", {})


@pytest.mark.parametrize("body", [float("nan"), {"x": float("inf")}, object(), {"x": {1, 2}}, b"bytes"])
def test_only_finite_json_is_stored(store: Store, body: object) -> None:
    run = store.begin("demo", {})
    with pytest.raises(StoreError):
        run.append("told", "0", body)
    assert run.records() == []


def test_threads_append_together(store: Store) -> None:
    run = store.begin("demo", {})

    def work(name: int) -> None:
        for i in range(20):
            run.append("told", f"{name}/{i}", i)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(run.records()) == 160


def test_a_contradiction_does_not_take_its_neighbours_along(store: Store) -> None:
    run = store.begin("demo", {})
    run.append("told", "0", 0)
    refused: list[StoreError] = []

    def contradict() -> None:
        for _ in range(30):
            try:
                run.append("told", "0", 1)
            except StoreError as error:
                refused.append(error)

    thread = threading.Thread(target=contradict)
    thread.start()
    for i in range(1, 31):
        run.append("told", str(i), i)
    thread.join()
    assert len(refused) == 30
    assert [r.body for r in run.records()] == list(range(31))


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store.open(path)
    run = store.begin("demo", {})
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        run.append("told", "0", 1)
    with pytest.raises(StoreError, match="closed"):
        run.get("told", "0")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking beside threads is what is tested
def test_a_forked_child_is_told_to_open_its_own(store: Store) -> None:
    run = store.begin("demo", {})
    child = os.fork()
    if child == 0:
        try:
            run.append("told", "0", 1)
        except StoreError as error:
            os._exit(7 if "forked child" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# --------------------------------------------------------------------------- blobs


@pytest.mark.parametrize("size", [0, 10, BLOB_IN_TABLE_BYTES, BLOB_IN_TABLE_BYTES + 1])
def test_blobs_come_back_by_their_hash(path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    with Store.open(path) as store:
        sha256 = store.put_blob(data)
        assert store.put_blob(data) == sha256
    with Store.open(path) as store:
        assert store.blob(sha256) == data
    assert (path.parent / "blobs" / sha256).exists() == (size > BLOB_IN_TABLE_BYTES)


def test_missing_and_damaged_blobs_are_errors(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match="no blob"):
        store.blob("ab" * 32)
    with pytest.raises(StoreError, match="no SHA-256"):
        store.blob("../demo.sqlite")
    sha256 = store.put_blob(bytes(BLOB_IN_TABLE_BYTES + 1))
    (path.parent / "blobs" / sha256).write_bytes(b"short")
    with pytest.raises(StoreError, match="damaged"):
        store.blob(sha256)


# --------------------------------------------------------------------------- death in the middle

_APPEND_UNTIL_KILLED = """
import sys
from results.store import Store
store = Store.open(sys.argv[1])
run = store.begin(sys.argv[2], {})
for i in range(10**6):
    run.append("told", str(i), {"i": i, "pad": "x" * 3000})
    print(i)
    if i % 5 == 0:
        print(store.put_blob(bytes(300_000) + str(i).encode()))
"""


def test_what_was_acknowledged_outlives_a_kill(path: Path) -> None:
    moments = random.Random(5)
    for attempt in range(4):
        child = python(_APPEND_UNTIL_KILLED, path, f"run{attempt}")
        assert child.stdout is not None
        seen = [child.stdout.readline()]
        time.sleep(moments.uniform(0.0, 0.3))
        child.send_signal(signal.SIGKILL)
        seen += child.communicate()[0].splitlines()
        # The last line may be cut off; the lines before it were acknowledged.
        acknowledged = [line.strip() for line in seen[:-1] or seen]
        with Store.open(path) as store:
            run = store.run(f"run{attempt}")
            kept = {r.key for r in run.records()}
            for line in acknowledged:
                assert line in kept or store.blob(line)
            assert {r.body["i"] for r in run.records()} == set(range(len(kept)))


_OPEN_TOGETHER = """
import sys
from results.store import Store
sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    run = store.begin(sys.argv[2], {})
    for i in range(20):
        run.append("told", str(i), i)
"""


def test_processes_make_and_fill_one_store_together(path: Path) -> None:
    children = [python(_OPEN_TOGETHER, path, f"run{i}") for i in range(3)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
    assert [child.returncode for child in children] == [0, 0, 0]
    with Store.open(path) as store:
        assert sorted(store.runs()) == ["run0", "run1", "run2"]
        assert all(len(store.run(name).records()) == 20 for name in store.runs())


# --------------------------------------------------------------------------- claims

_CLAIM = """
import sys
from results.store import Store
with Store.open(sys.argv[1]) as store, store.claim("demo"):
    print("claimed")
    sys.stdin.readline()
"""


def test_a_claim_is_one_at_a_time_and_names_its_holder(store: Store, path: Path) -> None:
    child = python(_CLAIM, path)
    assert child.stdout is not None
    assert child.stdout.readline() == "claimed\n"
    with pytest.raises(StoreError, match=rf"process {child.pid}, since 2"), store.claim("demo"):
        pass
    with store.claim("another run"):
        pass
    child.communicate("end\n")
    with store.claim("demo"), pytest.raises(StoreError, match=rf"process {os.getpid()}"), store.claim("demo"):
        pass
    with store.claim("demo"):
        pass


def test_a_killed_holder_lets_go(store: Store, path: Path) -> None:
    child = python(_CLAIM, path)
    assert child.stdout is not None
    assert child.stdout.readline() == "claimed\n"
    child.kill()
    child.communicate()
    with store.claim("demo"):
        pass


# --------------------------------------------------------------------------- what cannot be opened


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, not a database\n" * 100)
    with pytest.raises(StoreError, match=r"notes\.txt: it is no SQLite file"):
        Store.open(path)
    assert path.read_text().startswith("these are notes")


def test_a_damaged_store_is_refused_with_a_remedy(path: Path) -> None:
    with Store.open(path) as store:
        run = store.begin("demo", {})
        for i in range(200):
            run.append("told", str(i), {"pad": "x" * 500})
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="recover"), Store.open(path) as store:
        store.run("demo").records()


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (id INTEGER, distance_km REAL)")
    connection.close()
    with pytest.raises(StoreError, match="foreign table 'runs'"):
        Store.open(path)


def test_a_newer_version_is_refused(path: Path) -> None:
    with Store.open(path) as store:
        store.begin("demo", {}).append("told", "0", 1)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET schema = ?", (SCHEMA + 1,))
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="newer version of Boardwise"):
        Store.open(path)


def test_older_bodies_are_upgraded_when_they_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(path) as store:
        store.begin("demo", {}).append("told", "0", {"latency_ms": 5.0})
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET schema = 0")
    connection.commit()
    connection.close()
    monkeypatch.setitem(UPGRADES, ("told", 0), lambda body: {"latency_s": body["latency_ms"] / 1000})
    with Store.open(path) as store:
        run = store.run("demo")
        assert run.get("told", "0") == {"latency_s": 0.005}
        run.append("told", "0", {"latency_s": 0.005})  # the same, in today's shape


def test_upgrades_are_applied_one_after_the_other() -> None:
    steps = {("told", 0): lambda body: [*body, "a"], ("told", 2): lambda body: [*body, "b"]}
    assert upgrade("told", 0, [], upgrades=steps, current=3) == ["a", "b"]
    assert upgrade("told", 1, [], upgrades=steps, current=3) == ["b"]
    assert upgrade("asked", 0, [], upgrades=steps, current=3) == []
    with pytest.raises(StoreError, match="upgrade Boardwise"):
        upgrade("told", 4, [], upgrades=steps, current=3)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    share = tmp_path / "my share"
    share.mkdir()
    mounts = tmp_path / "mountinfo"
    escaped = str(share).replace(" ", "\\040")
    mounts.write_text(
        "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
        f"30 22 0:40 / {escaped} rw,relatime shared:9 master:2 - {kind} server:/export rw\n"
    )
    monkeypatch.setattr(database, "MOUNTS", mounts)
    with pytest.raises(StoreError, match=rf"network file system \({kind}\).*--runs FOLDER"):
        Store.open(share / "runs" / "demo.sqlite")
    Store.open(tmp_path / "my share next to it" / "demo.sqlite").close()
    assert not list(share.iterdir())


def test_the_kernel_says_what_a_path_lies_on(tmp_path: Path) -> None:
    assert database.file_system(tmp_path) not in (None, "proc")
    assert database.file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize("url", ["mysql://host/runs", "postgresql://", "nonsense://"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StoreError):
        Store.open(url)


_IN_A_SMALL_FILE_SYSTEM = """
import ctypes, os, sys
from pathlib import Path
from results.errors import StoreError
from results.store import Store

folder, case = Path(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000 if os.geteuid() == 0 else 0x20000 | 0x10000000) == 0  # own mounts (own users)
assert libc.mount(b"none", b"/", None, 1 << 14 | 1 << 18, None) == 0
assert libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=512k") == 0
store = Store.open(folder / "demo.sqlite")
run = store.begin("demo", {})
kept = 0
try:
    if case == "full":
        while True:
            run.append("told", str(kept), "x" * 5000)
            kept += 1
    elif case == "full blob":
        store.put_blob(bytes(600_000))
    else:
        store.close()
        assert libc.mount(b"none", os.fsencode(folder), None, 1 | 32, None) == 0  # read-only from now on
        Store.open(folder / "demo.sqlite").begin("other", {})
except StoreError as error:
    print(error)
if case != "read-only":
    assert len(run.records()) == kept
    assert not list(folder.glob("blobs/*"))
    store.close()
"""


@pytest.mark.parametrize(
    ("case", "message"),
    [("full", "the disk is full"), ("full blob", "free some space"), ("read-only", "may be written to")],
)
def test_a_full_or_read_only_disk_is_an_error_with_a_remedy(tmp_path: Path, case: str, message: str) -> None:
    child = python(_IN_A_SMALL_FILE_SYSTEM, os.fspath(tmp_path), case)
    output = child.communicate(timeout=60)[0]
    assert child.returncode == 0
    assert message in output


def test_what_is_appended_later_is_stored_with_the_next(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.sqlite") as store:
        run = store.begin("r", {})
        run.append_later("built", "0", {"macs": 1})
        assert run.get("built", "0") is None
        run.append("measured", "0", {"ms": 2})
        assert [(r.kind, r.body) for r in run.records()] == [("built", {"macs": 1}), ("measured", {"ms": 2})]
        run.append_later("built", "0", {"macs": 3})
        with pytest.raises(StoreError, match="another 'built' record"):
            run.append("measured", "1", {"ms": 4})
        assert run.get("measured", "1") is None


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_what_is_appended_soon_is_durable_with_its_blob_before_what_follows(path: Path, size: int) -> None:
    data = bytes(size)
    with Store.open(path) as store:
        run = store.begin("a", {})
        run.append_soon("trained", "0", {"checkpoint": name_of(data)}, blob=data)
        run.append("told", "0", {})
        assert [record.kind for record in run.records()] == ["trained", "told"]
        assert store.blob(name_of(data)) == data


def test_an_error_of_what_is_appended_soon_is_raised_by_the_next(store: Store) -> None:
    run = store.begin("a", {})
    run.append("trained", "0", {"accuracy": 1})
    run.append_soon("trained", "0", {"accuracy": 2})
    with pytest.raises(StoreError, match="holds another 'trained' record under '0'"):
        run.append("told", "0", {})
    assert run.get("told", "0") is None, "it would stand there without its training"
    run.append("told", "1", {})
