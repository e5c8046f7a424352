"""The layers hold: who may import whom, and which commands start without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "zoo").rglob("*.py"), *(ROOT / "harness").rglob("*.py")])


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def below(path: Path, *parts: str) -> bool:
    return path.relative_to(ROOT).parts[: len(parts)] == parts


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    names = imports(path)
    top = {n.split(".")[0] for n in names}
    if below(path, "zoo"):
        assert "harness" not in top
        if not below(path, "zoo", "hub"):
            assert not top & {"huggingface_hub", "requests", "urllib", "httpx", "socket"}
        if not below(path, "zoo", "recipes"):
            assert ".train(True)" not in path.read_text(encoding="utf-8")
    if path.name != "cli.py" and not below(path, "harness", "commands"):
        assert "click" not in top
    if below(path, "harness", "attacks"):
        ours = {n for n in names if n.split(".")[0] in ("zoo", "harness")}
        foreign = {n for n in ours if not n.startswith(("harness.attacks", "zoo.errors"))}
        assert not foreign and not top & {"yaml", "timm", "torchvision"}


LIGHT = ["harness.results", "harness.stats", "harness.board", "harness.suite", "zoo.registry", "zoo.listing"]


@pytest.mark.parametrize("module", LIGHT)
def test_listings_and_boards_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'huggingface_hub')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
