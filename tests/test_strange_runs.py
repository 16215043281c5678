"""Runs that strangers made: ``report`` writes only into their folder, changes nothing of theirs, and ends."""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from harness.cli import main
from results import markdown
from results.codec import from_json
from results.errors import ConfigError, StoreError
from results.output import inert, write_whole
from results.records import Target
from results.store import Store
from results.table import write_csv
from tests.fixtures_results import HOST, PI, fill


def make_run(folder: Path, trials: int = 6) -> Path:
    """A run of a few trials in a folder of its own, closed."""
    folder.mkdir(parents=True)
    with Store.open(folder / "store.sqlite") as store:
        fill(store, folder.name, trials=trials)
    return folder


def change(folder: Path, *statements: str, **values: Any) -> None:
    """Changes a store behind Boardwise's back."""
    connection = sqlite3.connect(folder / "store.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(statement, values)
    connection.close()


def set_config(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Changes the configuration of the one run of a store."""
    connection = sqlite3.connect(folder / "store.sqlite")
    (text,) = connection.execute("SELECT config FROM runs").fetchone()
    values = json.loads(text)
    edit(values)
    connection.execute("UPDATE runs SET config = ?", (json.dumps(values),))
    connection.commit()
    connection.close()


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``report`` says when it refuses a run."""
    capsys.readouterr()
    assert main(["report", str(folder)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("boardwise: ")
    assert "Traceback" not in said
    return said


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["x/../../escaped", "/abs", "..", "", "a b", "a\nb", ".hidden", "a\x00b", "ä"]
)
def test_a_name_that_could_leave_the_folder_is_no_target(name: str) -> None:
    for make in (
        lambda: Target(name, "onnxruntime"),
        lambda: Target("pi5", name),
        lambda: Target("pi5", "tflite", name),
        lambda: Target("pi5", "tflite", options=((name, 1),)),
    ):
        with pytest.raises(ConfigError, match=r"becomes part of file names"):
            make()
    with pytest.raises(StoreError, match=r"Target: target .* becomes part of file names"):
        from_json(Target, {"device": name, "runtime": "tflite"})


@pytest.mark.parametrize("value", ["/a/../../b", "..", "x/y/", "\x1b[31m", "a b", "$\\frac$"])
def test_an_option_of_a_target_cannot_leave_the_folder(value: str) -> None:
    name = Target("pi5", "tflite", options=(("package", value),)).name
    assert "/" not in name
    assert name.isprintable()


def test_names_that_were_legal_still_are() -> None:
    for target in (PI, HOST, Target("0-a_B", "tflite", "int8"), Target("this-host", "onnxruntime")):
        assert target.name


def test_a_device_that_leaves_the_folder_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "runs" / "small")
    set_config(folder, lambda c: c["targets"][0].update(device="x/../../../escaped/pwn"))
    before = tree(tmp_path)
    assert "becomes part of file names" in refused(folder, capsys)
    assert tree(tmp_path) == before


# --------------------------------------------------------------------------- links


def test_links_in_a_run_are_replaced_not_followed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "small")
    outside = tmp_path / "precious"
    outside.write_text("mine")
    names = ["report.md", "trials.csv", f"pareto_{PI.name}.csv", f"front_{PI.name}.png"]
    for name in names:
        (folder / name).symlink_to(outside)
    assert main(["report", str(folder)]) == 0
    assert outside.read_text() == "mine"
    assert not any((folder / name).is_symlink() for name in names)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*: "):
        write_whole(tmp_path / ("x" * 300), b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_is_a_link_is_refused(make: Callable[[Path, Path], None], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "small")
    outside = tmp_path / "precious"
    outside.write_text("mine")
    make(folder / "store.sqlite.small.lock", outside)
    with (
        Store.open(folder / "store.sqlite") as store,
        pytest.raises(StoreError, match=r"small\.lock.* link.*remove it"),
        store.claim("small"),
    ):
        pass
    assert outside.read_text() == "mine"


def test_a_lock_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "small")
    os.mkfifo(folder / "store.sqlite.small.lock")
    with (
        Store.open(folder / "store.sqlite") as store,
        pytest.raises(StoreError, match="no file; remove it"),
        store.claim("small"),
    ):
        pass


@pytest.mark.parametrize("tail", ["-wal", "-shm", "-journal"])
def test_what_lies_beside_a_store_is_no_link_and_no_pipe(
    tail: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "small")
    beside = folder / f"store.sqlite{tail}"
    os.mkfifo(beside)
    assert f"store.sqlite{tail} is a link, or no file" in refused(folder, capsys)
    beside.unlink()
    beside.symlink_to(tmp_path / "elsewhere")
    assert f"store.sqlite{tail} is a link, or no file" in refused(folder, capsys)


def test_models_behind_a_link_are_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "small")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.onnx").write_text("mine")
    (folder / "models").symlink_to(tmp_path / "private")
    assert main(["report", str(folder)]) == 0
    assert "secret" not in capsys.readouterr().out


# --------------------------------------------------------------------------- nothing is changed


def test_report_changes_nothing_in_the_store_or_beside_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "small")
    before = tree(folder)
    assert main(["report", str(folder)]) == 0
    after = tree(folder)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.startswith("store.sqlite") and name not in before]


def test_report_reads_what_a_killed_writer_left_beside_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "small", trials=3)
    with Store.open(folder / "store.sqlite") as store:  # still open: its last records are in the WAL alone
        store.run("small").append("finished", "0", {"wall_s": 600.0})
        assert (folder / "store.sqlite-wal").stat().st_size > 0
        assert main(["report", str(folder)]) == 0
    assert "The search took 10.0 minutes" in (folder / "report.md").read_text()


def test_a_foreign_database_is_refused_by_name_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    change(folder, "CREATE TABLE bookmarks (url TEXT)", "INSERT INTO bookmarks VALUES ('x')")
    before = tree(folder)
    said = refused(folder, capsys)
    assert "store.sqlite" in said
    assert "foreign table 'bookmarks'" in said
    with pytest.raises(StoreError, match="foreign table 'bookmarks'"):
        Store.open(folder / "store.sqlite")
    assert tree(folder) == before


def test_an_empty_database_holds_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "store.sqlite").touch()
    assert "holds no runs" in refused(folder, capsys)
    assert tree(folder) == {"store.sqlite": b""}


def test_a_store_opened_to_read_takes_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "small")
    with (
        Store.open_to_read(folder / "store.sqlite") as store,
        pytest.raises(StoreError, match="cannot be written to"),
    ):
        store.run("small").append("finished", "0", {})


# --------------------------------------------------------------------------- it ends


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
FOREIGN = {
    "a view": (
        "ALTER TABLE records RENAME TO hidden",
        f"CREATE VIEW records AS {ENDLESS} SELECT x AS seq, 1 AS run, 'told' AS kind, x AS key, 1 AS schema,"
        " 0.0 AS at, '{}' AS body FROM n",
    ),
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END",),
    "a virtual table": ("CREATE VIRTUAL TABLE t USING fts5(x)",),
    "a computed column": (
        "ALTER TABLE records RENAME TO hidden",
        "CREATE TABLE records (seq INTEGER PRIMARY KEY, run, kind, key, schema, at,"
        " body TEXT GENERATED ALWAYS AS (hex(zeroblob(400000000))))",
    ),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_table_of_ours_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "small", trials=1)
    change(folder, *FOREIGN[kind])
    assert "holds a foreign" in refused(folder, capsys)
    with pytest.raises(StoreError, match="holds a foreign"):
        Store.open(folder / "store.sqlite")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("table", "schema"), [("runs", -2_000_000_000), ("records", -1), ("records", "'x'"), ("runs", "x'00'")]
)
def test_a_schema_that_cannot_be_is_refused(
    schema: object, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "small", trials=1)
    change(folder, f"UPDATE {table} SET schema = {schema}")
    assert "damaged" in refused(folder, capsys)


@pytest.mark.timeout(60)
def test_a_value_without_bounds_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "small", trials=1)
    change(folder, "UPDATE records SET body = hex(zeroblob(200000000)) WHERE kind = 'told'")
    assert "too long to be one of ours" in refused(folder, capsys)


# --------------------------------------------------------------------------- what is written does nothing


ACTIVE = (
    "<script>alert(1)</script><img src=x onerror=y>![p](http://x/p.png)[l](javascript:x)[r][r]\n# h\n\n"
    "- i\n> q\n```\n**b** `c` $\\frac{$ |d| \\[e](f) =1+1 \x1b[31m\u202e\t=2"
)
"""Whatever Markdown, HTML, mathematics of Matplotlib or a spreadsheet could act upon."""


def make_hostile(folder: Path) -> None:
    """A run whose every foreign text is active, also where it is read by nobody but the report."""
    folder.mkdir()
    with Store.open(folder / "store.sqlite") as store:
        fill(store, folder.name, trials=14)
    connection = sqlite3.connect(folder / "store.sqlite")
    for seq, text in connection.execute("SELECT seq, body FROM records").fetchall():
        body = _poison(json.loads(text))
        connection.execute("UPDATE records SET body = ? WHERE seq = ?", (json.dumps(body), seq))
    connection.commit()
    connection.close()
    set_config(
        folder,
        lambda c: c.update({k: _poison(c[k]) for k in ("task", "space", "strategy", "host", "version")}),
    )


KEPT_KEYS = {"device", "role", "state", "origin", "sha256", "space", "file_format", "precision"}
"""Fields whose values are chosen from a few, or that refer to others."""


def _poison(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: v if k in {"target", "plan", "proposal"} else _poison(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_poison(v, key) for v in value]
    return ACTIVE if isinstance(value, str) and key not in KEPT_KEYS else value


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a run, reported."""
    folder = tmp_path_factory.mktemp("hostile") / "small"
    make_hostile(folder)
    assert main(["report", str(folder)]) == 0
    return folder


def test_a_report_has_no_html_link_picture_or_heading_of_a_strangers(hostile: Path) -> None:
    text = (hostile / "report.md").read_text()
    assert "script" in text  # it is there, as text
    page = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    allowed = {
        "h1",
        "h2",
        "p",
        "ul",
        "li",
        "strong",
        "em",
        "code",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    pictures = re.findall(r'<img src="([^"]*)"', page)
    links = re.findall(r'<a href="([^"]*)"', page)
    assert all(re.fullmatch(r"front_[\w.-]+\.png", picture) for picture in pictures)
    assert all(re.fullmatch(r"pareto_[\w.-]+\.csv", link) for link in links)
    assert set(re.findall(r"<(\w+)", page)) <= allowed | {"img", "a", "br"}
    assert all(line.isprintable() for line in text.split("\n"))


def test_no_cell_of_a_csv_is_a_formula(hostile: Path) -> None:
    files = sorted(hostile.glob("*.csv"))
    assert len(files) == 3
    for path in files:
        for row in csv.reader(path.read_text().splitlines()):
            for cell in row:
                assert cell.isprintable()
                assert not re.match(r"[=+@\t\r-]", cell) or _is_number(cell), cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+49 30", "'+49 30"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"),
        ("\r=1", "'=1"),
        ("a;=1", "a;'=1"),
        ("-1.5", "-1.5"),
        ("-inf", "-inf"),
        ("width=8 depth=-1", "width=8 depth=-1"),
        (-1.5, -1.5),
        (None, None),
    ],
)
def test_a_cell_is_inert(cell: object, written: object) -> None:
    assert inert(cell) == written


def test_numbers_of_a_csv_stay_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"a": -1.5, "b": "=1", "trial": 3}, {"a": None, "b": None, "trial": 4}])
    assert (tmp_path / "x.csv").read_text() == "a,b,trial\n-1.5,'=1,3\n,,4\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("latency_p90 <= 8 ms, 0.95 [0.93, 0.96]", "latency_p90 <= 8 ms, 0.95 [0.93, 0.96]"),
        ("epochs in [pretrain])", "epochs in [pretrain])"),
        ("<b>", r"\<b>"),
        ("[a](b)", r"[a\](b)"),
        (r"\[a](b)", r"\\[a\](b)"),
        ("a\n# b", "a # b"),
        ("`c`", r"\`c\`"),
    ],
)
def test_markdown_is_escaped_and_plain_text_stays(text: str, shown: str) -> None:
    assert markdown.escape(text) == shown
