"""What is printed: foreign text arrives as text, whatever it holds, and our own sentences arrive whole."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table

from harness import terminal
from harness.cli import main
from harness.host_trust import ask_secret
from harness.progress import LiveWatcher
from results.errors import ConfigError
from results.printable import printable, printable_lines
from results.records import Limit, Metric, Problem
from results.store import Run, Store
from tests.fixtures_results import PI, ask, config, told

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("[/x]", "[bold]e[/bold]", "[/usr/bin/x]", ":smile:")
HOSTILE = "a\x1b[31m\x1b]0;title\x07\x9b2J\x7f\u202eb\u2066c\u200d\ud800\rd " + " ".join(KEPT)
"""Escape sequences of both kinds, marks of direction, a lone surrogate, markup of what is not open."""


def is_safe(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@given(st.text())
def test_printable_is_printable_of_the_same_length_and_changes_nothing_twice(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    assert printable(printable(text)) == printable(text)
    assert is_safe(printable_lines(text))


def test_what_can_be_printed_stays() -> None:
    assert printable("größer, 8 ms ± 3 %, 漢字, ✓ [pretrain]") == "größer, 8 ms ± 3 %, 漢字, ✓ [pretrain]"
    assert printable_lines("one\ntwo") == "one\ntwo"


@given(st.text())
def test_a_console_takes_any_text(text: str) -> None:
    file = io.StringIO()
    console = terminal.console(file)
    grid = Table("what", title=text, caption=text)
    grid.add_row(text)
    console.print(text, grid)
    assert is_safe(file.getvalue())


def test_a_console_prints_brackets_as_they_are() -> None:
    file = io.StringIO()
    console = terminal.console(file)
    console.width = 300
    grid = Table(HOSTILE, title=HOSTILE)
    grid.add_row(HOSTILE)
    console.print("train them longer (epochs in [pretrain])", HOSTILE, grid)
    assert "(epochs in [pretrain])" in file.getvalue()
    assert [file.getvalue().count(text) for text in KEPT] == [4] * len(KEPT)


def test_a_moving_line_takes_any_text() -> None:
    file = io.StringIO()
    console = terminal.console(file)
    console.width = 300
    with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
        progress.add_task(HOSTILE)
    assert is_safe(file.getvalue())
    assert all(text in file.getvalue() for text in KEPT[:2])


def test_the_watcher_takes_names_and_notes_as_text() -> None:
    file = io.StringIO()
    console = terminal.console(file)
    console.width = 300
    watcher = LiveWatcher(Problem((Metric("accuracy", maximise=True), Metric("size"))), (PI,), 3, console)
    for tell in (watcher.stage, watcher.note, lambda text: watcher.board(text, "offline")):
        tell(HOSTILE)
    watcher.close()
    assert is_safe(file.getvalue())
    assert [file.getvalue().count(text) for text in KEPT] == [3] * len(KEPT)


def test_an_error_reaches_the_terminal_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        raise ConfigError(f"{HOSTILE}\nboardwise: all is well")

    monkeypatch.setattr("harness.first_look.run_folder", fail)
    assert main(["report", "x"]) == 1
    said = capsys.readouterr().err
    assert is_safe(said)
    assert all(text in said for text in KEPT)
    assert "\nboardwise" not in said  # no line of it passes for another message


def test_a_hidden_question_is_asked_in_one_safe_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda question: asked.append(question) or "secret")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    ask = ask_secret()
    assert ask is not None
    assert ask(f"{HOSTILE}\nPassword: ") == "secret"
    assert asked[0].isprintable()


def test_json_leaves_nothing_raw(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.write_json({HOSTILE: HOSTILE})
    assert is_safe(capsys.readouterr().out)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Run]:
    """A run in a folder with brackets whose only trial has failed with a hostile error."""
    folder = tmp_path / "[red]" / "run"
    folder.mkdir(parents=True)
    with Store.open(folder / "store.sqlite") as store:
        run = store.begin(folder.name, config((PI,), [Limit(Metric("latency_p90", (PI.name,)), 0.008)]))
        ask(run, 0)
        told(run, 0, "failed", error=HOSTILE.replace("\ud800", ""))
        yield run


def test_report_prints_stored_errors_and_folders_as_text(
    empty: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "[red]" / "run")]) == 0
    shown = capsys.readouterr().out
    assert is_safe(shown)
    joined = shown.replace("\n", " ")
    assert all(text in joined for text in KEPT)
    assert "[red]/run" in joined


# --------------------------------------------------------------------------- nothing else prints


def calls(*folders: str) -> Iterator[tuple[str, str, ast.Call]]:
    """(file, name called, call) of every call in these folders."""
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(ROOT)), ast.unparse(node.func), node


def test_everything_is_printed_through_the_terminal_module() -> None:
    scripts_that_run_on_boards = {"devices/unpack.py"}
    allowed = scripts_that_run_on_boards | {"harness/terminal.py", "devices/power_switches/qemu.py"}
    for path, name, _ in calls("results", "devices", "search", "harness"):
        if path not in allowed and not path.startswith("devices/agent/"):
            assert name.rpartition(".")[2] not in {"print", "Console", "getpass"} or "." in name, path
            assert name != "getpass.getpass", path


def test_no_markup_is_read_anywhere() -> None:
    for path, name, call in calls("results", "devices", "search", "harness"):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("markup", "False") == "False", path
        assert not name.endswith(("from_markup", "Text.from_ansi")), path
        if name.endswith("TextColumn"):
            assert given.get("markup") == "False", path
