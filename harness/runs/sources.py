"""Which code decides a result: the sources that a stage imports, and a digest of what they say but not of how they say it."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("zoo", "harness")
CARRIERS = ("zoo.errors", "zoo.hub", "harness.storage", "harness.runs.executors")
"""Rooms that fetch, keep and hand on what was computed, and decide none of it: what they carry is checked by its digest."""

CRAFTING = ("harness.runs.craft",)
"""Where the sources of adversarial images begin."""
SCORING = ("harness.runs.answers", "zoo.loading.load")
"""Where the sources of a target's answers begin."""


@cache
def code_digest(*roots: str) -> str:
    """Return the sha256 over all code that the modules `roots` import, directly or not, in this package and the zoo.

    Comments, docstrings, blank lines and the form of the code do not count, nor what is imported for type checkers only.
    """
    sha = hashlib.sha256()
    for name, tree in sorted(closure(*roots).items()):
        sha.update(f"{name}\n{ast.dump(tree)}\n".encode())
    return sha.hexdigest()


def closure(*roots: str) -> dict[str, ast.Module]:
    """Return every module that `roots` import, anywhere in them, by its dotted name, parsed and without its docstrings."""
    found: dict[str, ast.Module] = {}
    todo = list(roots)
    while todo:
        path = _find(todo.pop())
        if path is None:
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name in found or name.startswith(CARRIERS):
            continue
        found[name] = tree = _bare(ast.parse(path.read_text(encoding="utf-8")))
        todo += _imports(tree)
        if path.name == "__init__.py" and "walk_packages" in path.read_text(
            encoding="utf-8"
        ):  # it imports all below it
            todo += [
                ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in path.parent.rglob("*.py") if p != path
            ]
    return found


def _find(module: str) -> Path | None:
    """Return the file of a module of ours; None of other packages, and of names that are no modules."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(tree: ast.Module) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _bare(tree: ast.Module) -> ast.Module:
    """Return a module without docstrings, without what stands after a name to explain it, and without imports for types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        for part in ("body", "orelse", "finalbody"):
            lines = getattr(node, part, None)
            if isinstance(lines, list):
                setattr(node, part, [line for line in lines if not _words(line)])
    return tree


def _words(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
