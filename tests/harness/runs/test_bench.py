"""Timing: in units of bare passes, and nothing is left changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.runs.bench import default_substitutes, speeds
from harness.runs.bench_history import changes, entries
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


def test_everything_else_is_timed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.runs.bench.SAMPLE_SECONDS", 0.01)
    suite, registry = make(tmp_path)
    workspace = workspace_of(Context(suite, (str(registry),)))
    found = speeds(workspace, ["tiny-resnet"], ["mim"], rounds=2, more=True)
    kinds = {speed.kind for speed in found}
    assert {"attack", "scoring", "loading", "training step"} <= kinds
    for speed in found:
        assert 0 < speed.low <= speed.ratio <= speed.high and speed.launches is None
    if "torchattacks" in kinds:
        theirs = next(speed for speed in found if speed.kind == "torchattacks")
        assert theirs.name == "torchattacks tiny-resnet x mim" and theirs.forwards == 3


def test_timings_are_kept_and_compared_with_the_last_on_this_hardware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.runs.bench.SAMPLE_SECONDS", 0.01)
    _, registry = make(tmp_path)
    history = tmp_path / "bench.jsonl"
    some = ["--substitute", "tiny-resnet", "--attack", "mim", "--rounds", "1", "--history", str(history), "--compare"]
    arguments = ["--registry", str(registry), "bench", "--suite", str(tmp_path / "tiny.yaml"), *some]
    main(arguments, prog_name="harness")
    assert "no earlier timing" in capsys.readouterr().err
    (first,) = entries(history)
    first["speeds"][0] |= {"ratio": 100.0, "low": 99.0, "high": 101.0}
    elsewhere = {**first, "hardware": "another machine"}
    history.write_text("\n".join(json.dumps(each) for each in (first, elsewhere)) + "\n")
    main(arguments, prog_name="harness")
    shown = capsys.readouterr().out
    assert "100.00" in shown and "faster" in shown and len(entries(history)) == 3
    history.write_text("not a record\n")
    with pytest.raises(UserError, match=r"bench\.jsonl, line 1"):
        entries(history)


def test_a_change_counts_where_the_spreads_lie_apart() -> None:
    def timed(ratio: float, low: float, high: float) -> dict[str, object]:
        return {"speeds": [{"name": "a", "ratio": ratio, "low": low, "high": high}, {"name": str(ratio), "ratio": 1.0}]}

    verdicts = [changes(timed(1.0, 0.9, 1.1), timed(*now)) for now in ((1.5, 1.2, 1.6), (1.05, 1.0, 1.2), (0.5, 0.4, 0.8))]
    assert [rows[0]["verdict"] for rows in verdicts] == ["slower", "-", "faster"]
    assert all(len(rows) == 1 for rows in verdicts) and verdicts[0][0]["change"] == pytest.approx(0.5)
