"""A folder is one suite's; its targets may come one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.board import load as load_board
from harness.records import chain
from harness.records.rows import Outcome, Predictions, Row, read_clean, read_row, read_rows, write_row
from harness.suites.selection import Selection
from tests.harness.tiny import make, run

MIM, PGD = Selection(attacks=("mim",)), Selection(attacks=("pgd",))


def lacking(tmp_path: Path, registry: Path) -> Path:
    """Return a registry in which tiny-vgg has no weights yet."""
    models = yaml.safe_load(registry.read_text(encoding="utf-8"))
    del models["models"]["tiny-vgg"]["weights"]
    path = tmp_path / "without.yaml"
    path.write_text(yaml.safe_dump(models), encoding="utf-8")
    return path


def test_targets_join_the_rows_when_their_weights_come_and_keep_their_place_when_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    without, out = lacking(tmp_path, registry), tmp_path / "out"

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


ONE = Selection(attacks=("mim",), substitutes=("tiny-resnet",))


def test_targets_that_are_run_one_after_the_other_add_up_to_the_whole_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    for target in ("tiny-vgg-2bit", "tiny-vgg", "tiny-resnet"):
        parts = run(suite, tmp_path / "parts", replace(ONE, targets=(target,)), overlays=[registry], workers=1)
    whole = run(suite, tmp_path / "whole", ONE, overlays=[registry], workers=1)
    assert read_row(parts.written[0]).canonical() == read_row(whole.written[0]).canonical()
    assert read_clean(parts.folder) == read_clean(whole.folder)


def test_a_late_target_that_is_run_alone_leaves_the_others_in_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    run(suite, tmp_path / "out", ONE, overlays=[lacking(tmp_path, registry)], workers=1)
    late = run(suite, tmp_path / "out", replace(ONE, targets=("tiny-vgg",)), overlays=[registry], workers=1)
    assert set(read_row(late.written[0]).outcomes) == set(read_clean(late.folder).predictions) == set(suite.target_names)


def test_images_that_changed_take_all_targets_of_their_row_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    first = run(suite, tmp_path / "out", replace(ONE, targets=("tiny-vgg-2bit",)), overlays=[registry], workers=1)
    row = read_row(first.written[0])
    write_row(first.folder, row.model_copy(update={"images_sha256": "1" * 64, "outcomes": flipped(row)}))
    again = run(suite, tmp_path / "out", replace(ONE, targets=("tiny-vgg",)), overlays=[registry], workers=1)
    merged = read_row(again.written[0])
    assert merged.images_sha256 == row.images_sha256 and set(merged.outcomes) == {"tiny-vgg", "tiny-vgg-2bit"}
    assert merged.outcomes["tiny-vgg-2bit"] == row.outcomes["tiny-vgg-2bit"]


def flipped(row: Row) -> dict[str, Outcome]:
    """Return outcomes of other images: other predictions."""
    return {t: Outcome(clean=o.clean, adv=Predictions((o.adv.array + 1) % 10)) for t, o in row.outcomes.items()}
