"""The built wheel carries everything that the embedded suite needs, and works from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("zoo/bundled", "harness/suites", "harness/board/site/assets", "harness/board/site/templates")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the sources and unpack it into a folder of its own."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "registry.yaml", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in ("zoo", "harness"):
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(base), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = base.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(base / "site")
    return base / "site"


def test_wheel_holds_registry_suites_weights_and_type_marks(installed: Path) -> None:
    here = {p.relative_to(ROOT) for folder in FOLDERS for p in (ROOT / folder).iterdir() if p.is_file()}
    here |= {Path("zoo/registry.yaml"), Path("zoo/py.typed"), Path("harness/py.typed")}
    missing = [str(path) for path in here if not (installed / path).is_file()]
    assert missing == []
    sizes = {p: p.stat().st_size for p in (installed / "zoo" / "bundled").iterdir()}
    assert sum(size for p, size in sizes.items() if p.name.startswith("cifar10")) <= 25_000_000
    assert sum(sizes.values()) <= 52_000_000
    licences = {p.name for p in sizes if p.name.startswith("LICENSE")}
    assert licences == {"LICENSE-tflite.txt", "LICENSE-squeezenet1.0-8bit.txt"}, "what others made comes with its licence"


def test_wheel_lists_and_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed), "ZOO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(program: str, *arguments: str) -> str:
        code = f"import {program}; from {program}.cli import main; assert {str(installed)!r} in {program}.__file__; main()"
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "digits-resnet14-2bit" in {row["name"] for row in json.loads(run("zoo", "list", "--json"))}
    some = ["--substitute", "digits-vgg-2bit-qaa", "--attack", "mim", "--target", "digits-nin-2bit", "--limit", "10"]
    board = json.loads(run("harness", "run", "--suite", "digits-qnn", "--workers", "1", "--json", *some))
    assert [row["substitute"] for row in board["rows"]] == ["digits-vgg-2bit-qaa"]
    assert (tmp_path / "leaderboards" / "digits-qnn" / "v2-limit10" / "board.md").is_file()
