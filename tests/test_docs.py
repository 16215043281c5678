"""The pages name what there is: files, modules, commands, options, columns, keys."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import _parser
from harness.study import CONFIRM, SCREEN
from results.records import Plan
from results.store import Store
from results.table import front_columns, trials
from results.units import score_column
from tests.fixtures_results import HOST, PI, fill

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
_FILE = re.compile(r"(?:benchmarks|devices|docs|examples|harness|results|search|tests)/[\w./-]*\w")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_exist(page: Path) -> None:
    text = page.read_text()
    named = [
        name for code in re.findall(r"`([^`\n]+)`", text) for name in code.split() if _FILE.fullmatch(name)
    ]
    named += re.findall(r"^\.venv/bin/python -m pytest (\S+)", text, re.MULTILINE)
    assert [name for name in named if not (ROOT / name).exists()] == []
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings
            }, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_run_exist(page: Path) -> None:
    modules = re.findall(r"python -m ((?:benchmarks|tests|harness)\.\w+)", page.read_text())
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Every command with its options."""
    yield words, {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from commands(below, (*words, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    known = dict(commands(_parser()))
    for line in re.findall(r"(?:^|`)(?:\.venv/bin/)?boardwise ([^`\n#]+)", page.read_text(), re.MULTILINE):
        words = tuple(re.split(r"\s|\\", line.partition("  ")[0].strip()))
        command = max((c for c in known if words[: len(c)] == c), key=len)
        assert command, f"{page.name}: boardwise {line}"
        options = {word.rstrip(".,;:)") for word in words if word.startswith("--")}
        assert options <= known[command] | {"--version"}, f"{page.name}: boardwise {line}"


def test_every_option_of_every_command_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    options = set().union(*(found for _, found in commands(_parser()))) - {"-h", "--help", "--version"}
    assert sorted(option for option in options if option not in text) == []


def test_every_column_is_explained(tmp_path: Path) -> None:
    explained = set(re.findall(r"`([\w<>]+)`", (ROOT / "docs/csv.md").read_text()))
    with Store.open(tmp_path / "store.sqlite") as store:
        columns = {*front_columns("accuracy"), *trials(fill(store)).columns}
    plain = {re.sub(r"_(low|high)$", "", name) for name in columns}
    for target in (PI, HOST):
        plain = {name.replace(target.name, "<target>") for name in plain}
    plain = {re.sub(r"^size_bytes_(onnx|tflite)$", "size_bytes_<format>", name) for name in plain}
    scores = {score_column("accuracy", where) for where in ("test", "validation", "board")}
    plain = {re.sub("^accuracy", "METRIC", name) if name in scores else name for name in plain}
    assert sorted(plain - explained) == []


def test_the_keys_of_plans_and_their_defaults_are_told() -> None:
    text = (ROOT / "docs/studies.md").read_text()
    table = text[text.index("`screen` and `confirm`, under") :]
    inner = {"name", "energy", "spread", "spread_sessions", "agent_spread", "agent_spread_agents", "strict"}
    for key in {field.name for field in dataclasses.fields(Plan)} - inner - {"start_below_c"}:
        (row,) = [line for line in table.splitlines() if line.startswith("|") and f"`{key}`" in line]
        for plan, cell in zip((SCREEN, CONFIRM), row.split("|")[2:4], strict=True):
            value = getattr(plan, key)
            shown = str(list(value)) if isinstance(value, tuple) else f"{value:g}"
            assert shown.replace(".0", "") in cell or cell.strip() == "the same", (key, shown, cell)
