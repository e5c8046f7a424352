"""A deployed network as a target of the main job, and refused as a substitute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.records.rows import read_row, write_row
from harness.runs import workspace
from harness.runs.reproduce import TargetVerdict, Verdict, reproduce
from harness.suites.suite import load as load_suite
from tests.harness.tiny import run
from zoo import registry
from zoo.errors import UserError

pytest.importorskip("onnxruntime")

SUITE = """
name: deployed
version: 1
title: A deployed network as a target
data: {name: digits, split: test, limit: 20}
budget: {norm: linf, levels: 32}
steps: 2
block: 10
attacks: [mim]
substitutes: [digits-vgg]
targets:
  Deployed: [digits-resnet8-8bit-onnx, digits-resnet8-8bit]
"""
OVERLAY = """
version: 1
models:
  digits-resnet8-8bit-onnx:
    parent: digits-resnet8-8bit
    input: {size: 16, channels: 1, mean: [0], std: [1]}
    engine: {name: onnxruntime}
    weights: {file: net.onnx, sha256: SHA}
"""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    from zoo.engines.export_onnx import export_onnx

    folder = tmp_path_factory.mktemp("deployed")
    made = export_onnx(registry.load()["digits-resnet8-8bit"], folder / "net.onnx")
    (folder / "overlay.yaml").write_text(OVERLAY.replace("SHA", made.sha256))
    return folder / "overlay.yaml"


def test_a_row_says_which_engine_answered_and_is_reproduced(
    overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "deployed.yaml").write_text(SUITE)
    report = run(load_suite(str(tmp_path / "deployed.yaml")), tmp_path / "out", overlays=(str(overlay),))
    path = report.folder / "rows" / "digits-vgg--mim--s0.json"
    row = read_row(path)
    assert list(row.provenance.engines or {}) == ["digits-resnet8-8bit-onnx"]
    assert (row.provenance.engines or {})["digits-resnet8-8bit-onnx"].startswith("onnxruntime ")
    engine, torch_ = (row.outcomes[f"digits-resnet8-8bit{tail}"].adv.array for tail in ("-onnx", ""))
    assert (engine == torch_).mean() >= 0.95
    assert b"onnxruntime" in row.canonical()
    bare = row.model_copy(update={"provenance": row.provenance.model_copy(update={"engines": None})})
    assert b"engines" not in bare.canonical()

    verdict = reproduce(path, overlays=(str(overlay),))
    assert verdict.identical and verdict.engines == ()
    elsewhere = row.provenance.model_copy(update={"engines": {"digits-resnet8-8bit-onnx": "onnxruntime 0.1, a VAX"}})
    write_row(report.folder, row.model_copy(update={"provenance": elsewhere}))
    told = reproduce(path, overlays=(str(overlay),))
    assert [target for target, _, _ in told.engines] == ["digits-resnet8-8bit-onnx"]


def test_answers_of_another_engine_are_not_taken_from_the_cache(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for words in ("litert 1", "litert 2"):
        monkeypatch.setattr(workspace, "engine_facts", lambda entry, words=words: words if entry.engine else None)
        suite = load_suite(str(_write(overlay.parent / "deployed.yaml")))
        room = workspace.Workspace(workspace.Context(suite, (str(overlay),)))
        keys.append((room.score_key("digits-resnet8-8bit-onnx"), room.score_key("digits-resnet8-8bit")))
    assert keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]


def _write(path: Path) -> Path:
    path.write_text(SUITE)
    return path


def test_other_bytes_with_the_same_rates_are_told_apart_from_a_row_that_does_not_hold() -> None:
    verdict = _verdict(differing=1, agrees=True, engines=(("net", "litert 2, avx2", "litert 2, neon"),))
    assert verdict.words.endswith("same rates, other bytes, of net alone, which litert 2, avx2 ran and here litert 2, neon")
    assert "other bytes" not in _verdict(differing=1, agrees=True, engines=()).words
    assert "NOT reproduced" in replace(verdict, targets=(TargetVerdict("net", 9, 0.5, 0.9, False),)).words


def _verdict(differing: int, agrees: bool, engines: tuple[tuple[str, str, str], ...]) -> Verdict:
    class Named:
        filename = "row"

    return Verdict(Named(), True, (TargetVerdict("net", differing, 0.5, 0.5, agrees),), engines)  # type: ignore[arg-type]


def test_a_deployed_network_is_refused_as_a_substitute_before_anything_is_written(overlay: Path, tmp_path: Path) -> None:
    text = SUITE.replace("substitutes: [digits-vgg]", "substitutes: [digits-resnet8-8bit-onnx]")
    (tmp_path / "wrong.yaml").write_text(text.replace("name: deployed", "name: wrong"))
    with pytest.raises(UserError, match="has no gradient: it can be a target, not a substitute"):
        run(load_suite(str(tmp_path / "wrong.yaml")), tmp_path / "out", overlays=(str(overlay),))
    assert not (tmp_path / "out").exists()
