"""Whether a user's own Python files still mean what they did: hashes of what they define.

Comments, docstrings and layout do not count, nor does :data:`IGNORED`.  Neither does the order of imports,
functions, classes and literal constants, unless a name is given twice; that of anything else does, and that
of the fields of a class.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from results.codec import digest
from search.user_code import is_users

IGNORED = ("CREDITS",)
"""Definitions that no figure depends on."""

WHOLE, IMPORTS, REST, ORDER = "", "its imports", "other lines", "the order of its lines"
"""Beside the names of definitions: the file to the byte, imports in any order, what defines nothing, and in
which order that is executed of which the order counts."""

IMPORTERS = ("import_module", "__import__")
"""Functions that import what their first argument, or ``name``, is."""

Code = dict[str, dict[str, str]]
"""Hash by file and definition."""


def code_of(name: str) -> Code:
    """Hashes of a user's file and of the user's files that it imports.

    Args:
        name: ``file.py``, ``file.py:function`` or ``package.module:function``, executed or imported before;
            the name of anything else has no code.
    """
    place, colon, _ = name.rpartition(":")
    module = sys.modules.get(place) if colon and not place.endswith(".py") else None
    waiting = [(place if colon else name, "") if module is None else _place(module)]
    found: Code = {}
    while waiting:
        file, package = waiting.pop()
        if file not in found and file.endswith(".py"):
            source = Path(file).read_bytes()
            found[file] = definitions(source)
            waiting += [other for other in _imported(ast.parse(source), package) if is_users(other[0])]
    return found


def changed(code: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """What is not as it was: names of definitions, by file.

    Args:
        code: From :func:`code_of`, at whatever time.
    """
    found = {}
    for file, before in code.items():
        try:
            now = definitions(Path(file).read_bytes())
        except (OSError, SyntaxError, ValueError):
            found[file] = ["the whole file, which is gone or no Python any more"]
            continue
        names = {name for name in {*now, *before} - {WHOLE} if now.get(name) != before.get(name)}
        # Hashes of definitions may be another Python's, whose texts differ; to the byte they may not.
        if names and now[WHOLE] != before[WHOLE]:
            found[file] = sorted(names - {ORDER} or names)
    return found


def definitions(source: bytes) -> dict[str, str]:
    """Hash by name of definition, such as ``metric`` or ``Space.build``.

    Raises:
        SyntaxError, ValueError: If it is no Python.
    """
    texts: dict[str, list[str]] = {}
    body = _Bare().visit(ast.parse(source)).body
    ordered = list(_ordered(body))
    for name, text in _named(body, ""):
        if name not in IGNORED:
            texts.setdefault(name, []).append(text)
    texts[ORDER] = ordered
    hashes = {name: digest(sorted(t) if name == IMPORTS else t) for name, t in texts.items()}
    return {WHOLE: hashlib.sha256(source).hexdigest(), **hashes}


class _Bare(ast.NodeTransformer):
    """Leaves out docstrings and ``pass``."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        return None


def _named(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _named(statement.body, f"{prefix}{statement.name}.")
            statement.body = []
        yield _name(statement, prefix), ast.unparse(statement)


def _ordered(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """What of the statements of a module or class may mean another thing elsewhere in it."""
    given = Counter(name for statement in body for name in _gives(statement))
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _ordered(statement.body, f"{prefix}{statement.name}.")
        twice = any(given[name] > 1 for name in _gives(statement))
        if twice or not _anywhere(statement, in_class=bool(prefix)):
            yield f"{prefix}{type(statement).__name__} {','.join(_gives(statement))}"


def _gives(statement: ast.stmt) -> list[str]:
    """The names that a definition, an import or a constant gives; of other statements none."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    name = _name(statement, "")
    return [] if name == REST else [name]


def _anywhere(statement: ast.stmt, *, in_class: bool) -> bool:
    """Whether a statement may stand anywhere, if nothing else gives its names."""
    if isinstance(statement, ast.Assign | ast.AnnAssign) and not in_class:
        return _name(statement, "") in IGNORED or _is_literal(statement.value)
    definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Import | ast.ImportFrom
    return isinstance(statement, definition)


def _is_literal(value: ast.expr | None) -> bool:
    try:
        ast.literal_eval(value or ast.Constant(None))
    except ValueError:
        return False
    return True


def _name(statement: ast.stmt, prefix: str) -> str:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return prefix + statement.name
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return IMPORTS
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return prefix + targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else REST


def _imported(tree: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """Files that a file imports, each with its package."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            inner = f"{base}." if node.module else base
            names = [base, *(inner + alias.name for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTERS):
            named = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "name")]
            names = [a.value for a in named if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in names:
            yield from _located(name, package)


def _located(name: str, package: str) -> Iterator[tuple[str, str]]:
    """The file of a module and those of the packages that it lies in, as far as they are found."""
    try:
        full = importlib.util.resolve_name(name, package or None)
    except ImportError:
        return
    parts = full.split(".")
    for end in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is not None:
            yield _place(module)
    if parts[0] not in sys.modules:  # imported later, within a function; finding it executes nothing
        spec = importlib.util.find_spec(parts[0])
        if spec is not None and spec.origin is not None:
            yield spec.origin, parts[0] if spec.submodule_search_locations else ""


def _place(module: Any) -> tuple[str, str]:
    return str(getattr(module, "__file__", None)), str(getattr(module, "__package__", None) or "")
