"""Damaged stores, by a fuzzer with a fixed seed: ``report`` names the record, or reports what is left."""

from __future__ import annotations

import io
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import terminal
from harness.cli import main
from harness.outcome import outcome_json, print_outcome
from results import report as reports
from results import table
from results.codec import to_json
from results.errors import StoreError
from results.evaluations import history
from results.plots import draw
from results.records import Artifact, Score
from results.store import Run, Store
from results.weight_sharing import weight_sharing
from tests.fixtures_results import HOST, PI, confirm, fill, make_measurement, make_session

BODIES = 100
BYTES = 40
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 2, 10**30, 1e308, -1e308, 5e-324, 0.5, "", "x", "\ud800", "9" * 400, [], {},
    [1], [None], {"a": 1}, [[[]]], float("nan"), float("inf"),
)  # fmt: skip


def whole_run(store: Store) -> Run:
    """A run that has a record of every kind that a report reads."""
    run = fill(store, "small", trials=8)
    confirm(run, 1, 0.0055)
    confirm(run, 1, 0.0013, target=HOST)
    artifact = Artifact("ab" * 32, "graph1", "cd" * 32, "tflite", "fp32", 1234)
    score = to_json(Score(0.9, 100))
    supernet = {"plan": {"epochs": 3, "sampling": "fair"}, "losses": [1.0], "batch_size": 8, "notes": ["x"]}
    relaxed = {
        "plan": {"method": "gdas", "epochs": 3, "latency_form": "sum", "latency_weight": 0.1},
        "found": {"curve": [1.0], "search_s": 2.0, "stopped": None},
        "architecture": {"space": "space", "choices": [1]},
        "sum_of_blocks_s": {PI.name: 0.004},
        "training_s": 3.0,
    }
    for kind, key, body in (
        ("exported", "1/tflite-fp32", {"artifact": to_json(artifact), "tolerance": 0.1}),
        ("scored", "1", {"accuracy": {"int8": score}}),
        ("scored_on_board", f"1/{PI.name}", {"score": score}),
        ("refuted", f"0/{PI.name}", {"error": "no"}),
        ("prepared", PI.name, {"measurement": to_json(make_measurement([make_session([0.004])]))}),
        ("inherited", "1", {"parent": 0, "kind": "grown", "share": 0.5, "preserved": True, "reason": ""}),
        ("correlated", "0", {"shared": score, "alone": score, "epochs": 3, "training_s": 1.0}),
        ("pretrained", "supernet", supernet | {"training_s": 3.0}),
        ("pretrained", "differentiable", relaxed),
        ("not_confirmed", PI.name, {"device": PI.name, "reason": "busy"}),
        ("finished", "search", {"wall_s": 10.0, "at": 1.0}),
    ):
        run.append(kind, key, body)
    return run


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of such a run, closed."""
    path = tmp_path_factory.mktemp("pristine") / "store.sqlite"
    with Store.open(path) as store:
        whole_run(store)
    return path


def read_everything(path: Path, *, pictures: bool = True) -> None:
    """All that ``report`` makes of a store, but for the files that it writes."""
    with Store.open_to_read(path) as store:
        run = store.run("small")
        known = history(run)
        for target in known.targets:
            table.pareto_table(known, target.name)
            if pictures:
                draw(known, target.name)
        table.trials_table(known)
        bodies = [[r.body for r in reports.shapes.records(run, kind)] for kind in ("finished", "pretrained")]
        reports.report(known, *bodies, sharing=weight_sharing(run))
        outcome_json(run, path.parent, [])
        print_outcome(run, path.parent, [], terminal.console(io.StringIO()))


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values lie within a JSON value, samples but for the first aside."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from paths(item, (*path, index))


def mutated(text: str, rng: random.Random) -> str:
    """A body with one value taken out, or another in its place, or cut off as text."""
    if rng.random() < 0.03:
        return rng.choice([text[: rng.randrange(len(text))], "[" * 100_000, "9" * 5000, "", "NaN"])
    body = json.loads(text)
    path = rng.choice(list(paths(body)))
    if not path:
        return json.dumps(rng.choice(STRANGE))
    holder = body
    for step in path[:-1]:
        holder = holder[step]
    if rng.random() < 0.3:
        del holder[path[-1]]
    else:
        holder[path[-1]] = rng.choice(STRANGE)
    return json.dumps(body)


def test_the_whole_run_can_be_read(pristine: Path) -> None:
    read_everything(pristine)


def test_a_damaged_body_is_named_or_read(pristine: Path, tmp_path: Path) -> None:
    rng = random.Random(17)
    refused = 0
    for number in range(BODIES):
        path = tmp_path / "store.sqlite"
        shutil.copy(pristine, path)
        connection = sqlite3.connect(path)
        kinds = [kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM records ORDER BY kind")]
        kind = rng.choice([*kinds, "run"])  # each kind as often: most records are of few
        if kind == "run":
            (text,) = connection.execute("SELECT config FROM runs").fetchone()
            named, text = "its configuration", mutated(text, rng)
            connection.execute("UPDATE runs SET config = ?", (text,))
        else:
            rows = connection.execute("SELECT seq, key, body FROM records WHERE kind = ?", (kind,)).fetchall()
            seq, key, text = rng.choice(rows)
            named, text = f"record {kind!r} {key!r}", mutated(text, rng)
            connection.execute("UPDATE records SET body = ? WHERE seq = ?", (text, seq))
        connection.commit()
        connection.close()
        try:
            read_everything(path, pictures=number % 10 == 0)  # they take most of the time
        except StoreError as error:
            refused += 1
            if "run 'small'" not in str(error) or named not in str(error):
                raise AssertionError(f"{number}: {named}, {text[:300]}: not named") from error
        except Exception as error:
            raise AssertionError(f"{number}: {named}: {text[:500]}") from error
    assert refused > BODIES / 4  # the fuzzer does find what is damaged


def test_damaged_bytes_are_a_store_error(pristine: Path, tmp_path: Path) -> None:
    rng = random.Random(18)
    data = pristine.read_bytes()
    path = tmp_path / "store.sqlite"
    for _ in range(BYTES):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 4, 60])):
            damaged[rng.randrange(len(data) if rng.random() < 0.5 else 4096)] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
        try:
            with Store.open_to_read(path) as store:
                history(store.run("small"))
        except StoreError:
            continue


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE records SET at = 'x' WHERE kind = 'told'", "record 'told' '0'"),
        ("UPDATE records SET at = 1e300 WHERE kind = 'told'", "record 'told' '0'"),
        ("UPDATE records SET body = x'7b7d' WHERE kind = 'told'", "record 'told' '0'"),
        ("UPDATE records SET body = CAST(x'ff' AS TEXT) WHERE kind = 'told'", "UTF-8"),
        ("UPDATE records SET key = 'x' WHERE kind = 'told' AND key = '0'", "record 'told' 'x'"),
        ("UPDATE runs SET at = -1", "run 'small' is damaged"),
        ("UPDATE runs SET config = 'x'", "run 'small', its configuration"),
        ("UPDATE runs SET config = '[]'", "run 'small' is damaged"),
    ],
)
def test_a_damaged_row_ends_report_with_one_line(
    change: str, named: str, pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    shutil.copy(pristine, folder / "store.sqlite")
    connection = sqlite3.connect(folder / "store.sqlite")
    connection.execute(change)
    connection.commit()
    connection.close()
    assert main(["report", str(folder)]) == 1
    said = capsys.readouterr().err
    assert named in said
    assert len(said.splitlines()) == 1
