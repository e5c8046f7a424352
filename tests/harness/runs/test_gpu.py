"""Crafting, scoring and reproducing on real digits as a run does it, on whatever device there is."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness.records.rows import read_row
from harness.runs.reproduce import reproduce

DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_digits_are_made_and_reproduced(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, with the suite's own pool of images (Admix), a QAA substitute with its states, and a target of integers."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    board = harness.run(
        "digits-qnn",
        attacks=["mim", "admix"],
        substitutes=["digits-resnet14-2bit-qaa"],
        targets=["digits-vgg", "digits-vgg-2bit", "digits-resnet8-8bit"],
        limit=20,
        device=device,
        workers=1,
        out=tmp_path / "boards",
    )
    assert {line.attack for line in board.lines} == {"mim", "admix"}
    rows = sorted((tmp_path / "boards").rglob("rows/*.json"))
    assert len(rows) == 2
    for path in rows:
        row = read_row(path)
        assert row.cost.device == device and row.provenance.precision is None
        assert set(row.outcomes) == {"digits-vgg", "digits-vgg-2bit", "digits-resnet8-8bit"} and 0 < row.max_level <= 32
        verdict = reproduce(path, device)
        assert verdict.images_identical and all(target.differing == 0 for target in verdict.targets)
