"""Timing: in units of bare passes, and nothing is left changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.runs.bench import default_substitutes, speeds
from harness.runs.workspace import Context, workspace_of
from tests.harness.tiny import make
from zoo.errors import UserError


def test_an_attack_is_timed_against_its_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.runs.bench.SAMPLE_SECONDS", 0.01)
    suite, registry = make(tmp_path)
    workspace = workspace_of(Context(suite, (str(registry),)))
    assert default_substitutes(suite) == ["tiny-resnet", "tiny-resnet-2bit"]
    flags = [p.requires_grad for p in workspace.target("tiny-resnet").parameters()]
    (short, long) = speeds(workspace, ["tiny-resnet"], ["mim", "vmi"], rounds=1)
    assert (short.forwards, short.backwards, short.images) == (3, 3, 5) and long.forwards > 10 * short.forwards
    assert long.seconds > short.seconds > 0 and long.bare > short.bare and 0.1 < long.ratio < 10
    assert [p.requires_grad for p in workspace.target("tiny-resnet").parameters()] == flags
    with pytest.raises(UserError, match="no substitute"):
        speeds(workspace, ["tiny"], ["mim"])


def test_the_command_prints_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.runs.bench.SAMPLE_SECONDS", 0.01)
    _, registry = make(tmp_path)
    arguments = ["bench", "--suite", str(tmp_path / "tiny.yaml"), "--attack", "mim", "--rounds", "1"]
    main(["--registry", str(registry), *arguments, "--json"], prog_name="harness")
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["tiny-resnet x mim", "tiny-resnet-2bit x mim"]
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in rows)
