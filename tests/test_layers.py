"""The house holds: every folder has its floor, imports go down only, and which commands start without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "zoo").rglob("*.py"), *(ROOT / "harness").rglob("*.py")])

FLOORS = {
    "zoo": [
        ["errors", "_allocator", "_compat"],
        ["intervals", "devices", "kernels"],
        ["registry"],
        ["hub"],
        ["data", "quant"],
        ["archs"],
        ["loading"],
        ["engines"],
        ["__init__", "evaluate"],
        ["recipes"],
        ["commands"],
        ["cli"],
    ],
    "harness": [
        ["attacks", "storage"],
        ["suites", "substitutes"],
        ["records"],
        ["board"],
        ["runs"],
        ["analyze", "sandbox"],
        ["submit"],
        ["api"],
        ["__init__"],
        ["commands"],
        ["cli"],
    ],
}
"""The floors of each package, the ground floor first; a room imports rooms of lower floors, never its neighbours'."""

TORCHLESS = ["harness.records", "harness.board", "harness.suites", "zoo.registry"]
LIGHT = [
    *TORCHLESS,
    "harness.records.rows",
    "harness.board.statistics",
    "harness.board.site",
    "harness.board.plots",
    "harness.suites.suite",
    "zoo.hub.pulling",
    "zoo.registry.listing",
]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members if node.module in FLOORS else {node.module} | members
    return found


def below(path: Path, *parts: str) -> bool:
    return path.relative_to(ROOT).parts[: len(parts)] == parts


def room(parts: tuple[str, ...]) -> str:
    """The folder, or the module at the top of a package, that a path or a dotted name lies in."""
    return parts[1].removesuffix(".py") if len(parts) > 1 else "__init__"


def floor(package: str, name: str) -> int | None:
    return next((level for level, rooms in enumerate(FLOORS[package]) if name in rooms), None)


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    for package, floors in FLOORS.items():
        there = {room(p.relative_to(ROOT).parts) for p in SOURCES if below(p, package)}
        planned = {name for rooms in floors for name in rooms}
        missing, gone = sorted(there - planned), sorted(planned - there)
        assert there == planned, f"{package}: without a floor in this test {missing}, without a folder {gone}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    package, *_ = parts = path.relative_to(ROOT).parts
    here = room(parts)
    level = floor(package, here)
    for name in sorted(imports(path)):
        other = tuple(name.split("."))
        if other[0] not in FLOORS or (other[0], room(other)) == (package, here):
            continue
        assert not (package == "zoo" and other[0] == "harness"), f"zoo never imports harness: {name}"
        if other[0] == package:
            target = floor(package, room(other))
            if target is None:  # a name out of the package's __init__, not a room
                target = floor(package, "__init__")
            rule = "imports go down only"
            assert target < level, f"{package}/{here} (floor {level}) may not import {name} (floor {target}): {rule}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    names = imports(path)
    top = {n.split(".")[0] for n in names}
    text = path.read_text(encoding="utf-8")
    if below(path, "zoo"):
        if not below(path, "zoo", "hub"):
            assert not top & {"huggingface_hub", "requests", "urllib", "httpx", "socket"}, "only zoo/hub touches the network"
        if not below(path, "zoo", "recipes"):
            assert ".train(True)" not in text, "only zoo/recipes trains"
        strings = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        assert not {"harness", "../harness"} & set(strings), "zoo never reads the files of harness"
    if path.name != "cli.py" and path.relative_to(ROOT).parts[1] != "commands":
        assert "click" not in top, "only the commands import click"
    if below(path, "harness", "attacks"):
        ours = {n for n in names if n.split(".")[0] in FLOORS}
        foreign = {n for n in ours if not n.startswith(("harness.attacks", "zoo.errors"))}
        assert not foreign and not top & {"yaml", "timm", "torchvision"}, "harness/attacks imports torch and zoo.errors alone"
    if any(path.is_relative_to(ROOT / name.replace(".", "/")) for name in TORCHLESS):
        assert "torch" not in top, "records, boards, suites and the registry import no torch"


def test_every_folder_says_what_it_is_for() -> None:
    for path in SOURCES:
        if path.name == "__init__.py" and len(path.relative_to(ROOT).parts) == 3:
            said = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
            assert "egin with" in said and "may import" in said, f"{path}: what it is for, what it may import, where to begin"


@pytest.mark.parametrize("module", LIGHT)
def test_listings_and_boards_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'huggingface_hub')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
