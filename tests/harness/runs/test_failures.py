"""What fails costs its own cell and is shown as missing; what is wrong with the machine ends the run."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import yaml

from harness.board import load as load_board
from harness.records.rows import read_absent, read_clean, read_row, read_rows
from harness.suites.selection import Selection
from harness.suites.suite import Suite
from tests.harness.tiny import SUITE, make, run
from zoo.errors import MachineError, UserError

MIM = Selection(attacks=("mim",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def changed(tmp_path: Path, listed: str, by: str) -> tuple[Suite, Path]:
    assert listed in SUITE
    return make(tmp_path, SUITE.replace(listed, by))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_attack_that_does_not_suit_a_substitute_costs_that_row_only(tmp_path: Path, workers: int) -> None:
    suite, registry = changed(tmp_path, "substitutes: [tiny-resnet,", "substitutes: [tiny-vgg, tiny-resnet,")
    part = Selection(attacks=("sgm", "mim"), substitutes=("tiny-vgg", "tiny-resnet"))
    report = run(suite, tmp_path / "out", part, overlays=[registry], workers=workers)
    assert {(row.substitute, row.attack) for row in read_rows(report.folder)} == {
        ("tiny-vgg", "mim"),
        ("tiny-resnet", "sgm"),
        ("tiny-resnet", "mim"),
    }
    (absent,) = read_absent(report.folder).rows
    assert (absent.substitute, absent.attack) == ("tiny-vgg", "sgm") and absent.reason.startswith("tiny-vgg x sgm: ")
    assert report.blocked == {"tiny-vgg x sgm": absent.reason} and "tiny-vgg x sgm" in load_board(report.folder).to_markdown()


def test_a_target_whose_file_does_not_fit_costs_its_own_cells_only(tmp_path: Path) -> None:
    suite, registry = make(tmp_path)
    models = yaml.safe_load(registry.read_text(encoding="utf-8"))
    models["models"]["tiny-vgg"]["arch"] = "zoo:resnet8-16px"
    registry.write_text(yaml.safe_dump(models), encoding="utf-8")
    report = run(suite, tmp_path / "out", MIM, overlays=[registry], workers=1)
    assert len(report.written) == 2
    for path in report.written:
        row = read_row(path)
        assert set(row.outcomes) == {"tiny-resnet", "tiny-vgg-2bit"}
        assert "tiny-vgg: the weights do not fit" in row.failures["tiny-vgg"]


def test_a_substitute_without_a_state_costs_its_own_rows_only(tmp_path: Path) -> None:
    held = "substitutes: [{name: held, models: [tiny-resnet-2bit], states: [fp]}, tiny-resnet,"
    suite, registry = changed(tmp_path, "substitutes: [tiny-resnet,", held)
    report = run(suite, tmp_path / "out", MIM, overlays=[registry], workers=1)
    assert {row.substitute for row in read_rows(report.folder)} == {"tiny-resnet", "tiny-resnet-2bit"}
    assert [row.substitute for row in read_absent(report.folder).rows] == ["held"]
    with pytest.raises(UserError, match="nothing of suite tiny could run: held x mim"):
        run(suite, tmp_path / "out", Selection(("mim",), ("held",)), overlays=[registry], workers=1)


def test_a_substitute_that_misses_its_claim_costs_its_own_rows_only(tmp_path: Path) -> None:
    suite, registry = make(tmp_path)
    models = yaml.safe_load(registry.read_text(encoding="utf-8"))
    models["models"]["tiny-resnet-2bit"]["clean_accuracy"] = {"top1": 99.0, "data": "digits", "source": "test"}
    registry.write_text(yaml.safe_dump(models), encoding="utf-8")
    report = run(suite, tmp_path / "out", overlays=[registry], workers=1)
    assert {row.substitute for row in read_rows(report.folder)} == {"tiny-resnet"}
    absent = read_absent(report.folder).rows
    assert {(row.substitute, row.attack) for row in absent} == {("tiny-resnet-2bit", "mim"), ("tiny-resnet-2bit", "pgd")}
    assert "99.0 % claimed; see zoo eval tiny-resnet-2bit" in absent[0].reason
    assert set(read_clean(report.folder).predictions) == set(suite.target_names), "clean.json is of targets"


def test_a_full_disk_ends_the_run_and_blames_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, registry = make(tmp_path)
    flush = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(what: str, done: int, total: int) -> None:
        if what.startswith("crafting"):
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(MachineError, match="the disk is full"):
        run(suite, tmp_path / "out", MIM, overlays=[registry], workers=1, notify=fill)
    monkeypatch.setattr(os, "fsync", flush)
    folder = tmp_path / "out" / "tiny" / "v1"
    assert not read_absent(folder).rows and (folder / "run.json").is_file()
