"""The store on PostgreSQL: a private server on a Unix socket, for as long as these tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from results.errors import StoreError
from results.store import BLOB_IN_TABLE_BYTES, Store

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534


def program(name: str) -> str:
    """Path of one of PostgreSQL's programs, which Debian keeps out of PATH."""
    found = [shutil.which(name), *map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))]
    paths = [path for path in found if path]
    assert paths, f"no {name}: install the package postgresql"
    return paths[-1]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """URL of a server that listens on a socket in its own folder; it refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="boardwise-"))
    owner: dict[str, Any] = {"cwd": "/"}
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        owner |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    data = str(folder / "data")
    options = ["-A", "trust", "-U", "boardwise", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run([program("initdb"), "-D", data, *options], check=True, stdout=subprocess.DEVNULL, **owner)
    listen = ["-k", str(folder), "-c", "listen_addresses="]
    with subprocess.Popen(
        [program("postgres"), "-D", data, *listen], stderr=subprocess.DEVNULL, **owner
    ) as server:
        try:
            deadline = time.monotonic() + 60
            while not (folder / ".s.PGSQL.5432").exists():
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.05)
            yield f"postgresql:///postgres?host={folder}&user=boardwise"
        finally:
            server.terminate()
            server.wait()
            shutil.rmtree(folder)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store on the server."""
    deadline = time.monotonic() + 60
    while True:  # the socket is there a moment before the server answers
        try:
            opened = Store.open(url)
            break
        except StoreError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with opened:
        yield opened


def test_records_come_back_and_contradictions_are_refused(store: Store) -> None:
    run = store.begin("records", {"seed": 1})
    run.append("told", "0", {"a": 1})
    run.append("told", "0", {"a": 1})
    with pytest.raises(StoreError, match="another 'told' record"):
        run.append("told", "0", {"a": 2})
    with pytest.raises(StoreError, match="there is a run 'records' already"):
        store.begin("records", {})
    assert [(r.kind, r.key, r.body) for r in store.run("records").records()] == [("told", "0", {"a": 1})]
    assert store.run("records").config == {"seed": 1}


def test_threads_append_together(store: Store) -> None:
    run = store.begin("threads", {})
    threads = [
        threading.Thread(target=lambda name=name: [run.append("told", f"{name}/{i}", i) for i in range(20)])
        for name in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(run.records()) == 80


def test_blobs_of_every_size_lie_in_the_database(store: Store) -> None:
    for size in (10, BLOB_IN_TABLE_BYTES + 1):
        assert store.blob(store.put_blob(bytes(size))) == bytes(size)


_CLAIM = """
import sys
from results.store import Store
with Store.open(sys.argv[1]) as store, store.claim("demo"):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_claim_names_its_holder_and_ends_with_it(store: Store, url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CLAIM, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "claimed\n"
        with pytest.raises(StoreError, match=f"process {child.pid}, since 2"), store.claim("demo"):
            pass
        with store.claim("another"):
            pass
        child.kill()
    deadline = time.monotonic() + 60
    while True:  # the server notices the closed socket in its own time
        try:
            with store.claim("demo"):
                return
        except StoreError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_passwords_are_not_shown() -> None:
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://someone:secret@127.0.0.1:1/runs")
    assert "secret" not in str(caught.value)
    assert "someone" in str(caught.value)
