"""A folder is one suite's; its targets may come one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness import chain
from harness.board import load as load_board
from harness.results import read_rows
from harness.selection import Selection
from tests.harness.tiny import make, run

MIM, PGD = Selection(attacks=("mim",)), Selection(attacks=("pgd",))


def test_targets_join_the_rows_when_their_weights_come_and_keep_their_place_when_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    models = yaml.safe_load(registry.read_text(encoding="utf-8"))
    del models["models"]["tiny-vgg"]["weights"]
    without = tmp_path / "without.yaml"
    without.write_text(yaml.safe_dump(models), encoding="utf-8")
    out = tmp_path / "out"

    first = run(suite, out, overlays=[without], workers=1)
    assert {len(row.outcomes) for row in read_rows(first.folder)} == {2} and "tiny-vgg" in first.blocked
    second = run(suite, out, MIM, overlays=[registry], workers=1)
    assert len(second.written) == 2, "the rows that were asked for are filled in"
    rows = {row.filename: row for row in read_rows(second.folder)}
    assert sorted(len(row.outcomes) for row in rows.values()) == [2, 2, 3, 3]
    assert len({row.suite_digest for row in rows.values()}) == 1 and not load_board(second.folder).refused
    third = run(suite, out, PGD, overlays=[without], workers=1)
    assert len(third.reused) == 2 and {row.filename: row for row in read_rows(third.folder)} == rows
    run(suite, out, overlays=[registry], workers=1)
    whole = run(suite, tmp_path / "whole", overlays=[registry], workers=1)
    assert [r.canonical() for r in read_rows(first.folder)] == [r.canonical() for r in read_rows(whole.folder)]
    assert chain.check(first.folder) == []
