"""The harness in Python: the document's examples run, and importing costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.board import Board
from tests.harness.tiny import make
from zoo.errors import UserError

ROOT = Path(__file__).parents[2]


def test_import_harness_does_not_import_torch() -> None:
    code = "import harness, sys; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_examples_of_the_document_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 5
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert isinstance(names["board"], Board)
    assert isinstance(harness.load_suite(next(Path("boards/half").glob("v*-limit40")) / "suite.yaml"), type(names["suite"]))


def test_a_suite_in_memory_runs_and_its_stopped_run_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.runs.unfinished import only_unfinished, unfinished

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    other = suite.model_copy(update={"name": "other", "attacks": ("mim",)})
    out = tmp_path / "out"

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("crafting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.run(other, overlays=[registry], out=out, workers=1, limit=10, notify=stop)
    request = unfinished(only_unfinished(out))
    assert request is not None and only_unfinished(out, request.suite) == only_unfinished(out, "other") == only_unfinished(out)
    assert harness.load_suite(request.suite) == other and request.limit == 10
    board = harness.run(other, overlays=[registry], out=out, workers=1)
    assert len(board.lines) == 2 and board._repr_markdown_() == board.to_markdown()
    assert harness.load_board("other", out=out).to_json() == board.to_json()
    with pytest.raises(UserError, match="no version 3"):
        harness.load_board("other", version=3, out=out)
