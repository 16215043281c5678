"""The architecture's rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("results", "devices", "search", "harness")
ALLOWED = {
    "results": {"results"},
    "devices": {"devices", "results"},
    "search": {"search", "results"},
    "harness": {"harness", "devices", "search", "results"},
}
BANNED_FILES = {"utils.py", "helpers.py", "manager.py", "common.py", "base.py"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Absolute module names that a file imports; relative ones start with a dot."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    for path in sources(package):
        for name in imports(path):
            first = name.split(".")[0]
            if first in PACKAGES:
                assert first in ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}"


def test_agent_imports_nothing_but_the_standard_library_at_top_level() -> None:
    for path in sources("devices/agent"):
        for name in imports(path, top_level=True):
            if not name.startswith("."):
                assert name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"
        assert not [n for n in imports(path) if n.split(".")[0] in PACKAGES], path.name


def test_agent_is_python_3_8_by_grammar() -> None:
    for path in sources("devices/agent"):
        ast.parse(path.read_text(), feature_version=(3, 8))


def test_only_the_client_knows_the_agent() -> None:
    for path in sources(*PACKAGES):
        if "agent" in path.parts:
            continue
        known = [n for n in imports(path) if n.startswith("devices.agent.")]
        if known:
            assert path.name.startswith("agent_"), f"{path.relative_to(ROOT)} imports {known}"


def test_vocabulary_loads_no_third_party_module() -> None:
    for name in ("errors", "records", "codec"):
        for module in imports(ROOT / "results" / f"{name}.py"):
            first = module.split(".")[0]
            assert first in sys.stdlib_module_names or first == "results", f"{name}.py imports {module}"


def test_no_file_has_an_empty_name() -> None:
    assert not [p for p in sources(*PACKAGES, "tests", "benchmarks", "examples") if p.name in BANNED_FILES]


def test_help_imports_nothing_heavy() -> None:
    """Asserts what is imported, not how long it takes; benchmarks/overhead.py times it."""
    program = (
        "import sys\n"
        "from harness.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pandas', 'paramiko', 'numpy', 'sqlalchemy', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "search" in done.stdout
    assert done.stderr.strip() == "[]"


def test_code_says_nothing_about_this_machine() -> None:
    """No machine's paths and no registry's hosts in what is committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if (
            path.suffix in (".py", ".toml", ".md", ".sh", ".txt", "")
            and path.name != "LICENSE"
            and path.is_file()
        ):
            text = path.read_text()
            for word in ("/work" + "/main", "/ro" + "ot/", "pypi" + ".org", "files.python" + "hosted"):
                assert word not in text, f"{name} says {word}"
