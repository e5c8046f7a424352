"""What fails costs its own cell and is shown as missing; what is wrong with the machine ends the run."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from harness.board import load as load_board
from harness.cli import main
from harness.records.rows import read_absent, read_clean, read_row, read_rows
from harness.runs import runner
from harness.runs.executors.local import guarded
from harness.runs.unfinished import unfinished
from harness.suites.selection import Selection
from harness.suites.suite import Suite
from tests.harness.tiny import SUITE, make, run
from zoo.errors import MachineError, TaskError, UserError

CRASHES = """
def attack(model, x, y, *, eps, steps):
    raise KeyError("no such layer")
"""
MIM = Selection(attacks=("mim",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def changed(tmp_path: Path, listed: str, by: str) -> tuple[Suite, Path]:
    assert listed in SUITE
    return make(tmp_path, SUITE.replace(listed, by))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
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


def broken(tmp_path: Path) -> str:
    path = tmp_path / "broken.py"
    path.write_text(CRASHES, encoding="utf-8")
    return f"{path}:attack"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_in_an_attack_costs_its_rows_and_leaves_its_traceback(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    suite, registry = make(tmp_path)
    part = Selection(attacks=(broken(tmp_path), "mim"))
    with caplog.at_level(logging.ERROR, "harness"):
        report = run(suite, tmp_path / "out", part, overlays=[registry], workers=workers)
    assert {row.attack for row in read_rows(report.folder)} == {"mim"}, "the run goes on"
    absent = read_absent(report.folder).rows
    assert {(row.substitute, row.attack) for row in absent} == {("tiny-resnet", "attack"), ("tiny-resnet-2bit", "attack")}
    assert all("KeyError: 'no such layer'" in row.reason for row in absent)
    assert caplog.text.count('raise KeyError("no such layer")') == 1, "the same traceback is told once"
    assert [str(error) for error in report.crashes] == ["KeyError: 'no such layer'"]
    assert unfinished(report.folder) is None, "a resumed run would meet the same bug"


def test_the_command_says_by_its_status_that_an_attack_crashed(tmp_path: Path) -> None:
    suite, registry = make(tmp_path)
    asked = ["--registry", str(registry), "run", "--suite", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out")]
    part = ["--attack", broken(tmp_path), "--attack", "mim", "--substitute", "tiny-resnet", "--workers", "1"]
    found = CliRunner().invoke(main, [*asked, *part])
    assert found.exit_code == 1 and re.search(r"tiny-resnet +mim +\d", found.stdout), "the board shows what there is"
    assert "failed: KeyError: 'no such layer'" in found.stderr
    fast = CliRunner().invoke(main, [*asked, *part, "--fail-fast"])
    assert fast.exit_code == 2 and "KeyError: 'no such layer'" in fast.stderr and "--fail-fast" in fast.stderr
    assert unfinished(tmp_path / "out" / suite.name / "v1") is not None


def test_an_exception_in_what_an_attack_says_it_costs_is_a_failure_of_its_rows(tmp_path: Path) -> None:
    suite, registry = make(tmp_path)
    path = tmp_path / "costs.py"
    path.write_text(
        "class Costs:\n    def cost(self, steps):\n        return 1 / 0\n"
        "    def __call__(self, model, x, y, *, eps, steps):\n        return x\n",
        encoding="utf-8",
    )
    part = Selection((f"{path}:Costs", "mim"), ("tiny-resnet",), seeds=(0, 1))
    report = run(suite, tmp_path / "out", part, overlays=[registry], workers=1)
    assert len(report.written) == 2 and len(report.crashes) == 1
    absent = read_absent(report.folder).rows
    assert all("ZeroDivisionError" in row.reason for row in absent)
    assert [(row.substitute, row.seed) for row in absent] == [("tiny-resnet", 0), ("tiny-resnet", 1)], "each seed by itself"


def test_an_exception_in_a_target_costs_its_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, registry = make(tmp_path)
    plain = runner.score_images

    def weak(stage, title, job, images, targets):  # type: ignore[no-untyped-def]
        if job is not None:
            net = runner.workspace_of(stage.context).target("tiny-vgg")
            net.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
        return plain(stage, title, job, images, targets)

    monkeypatch.setattr(runner, "score_images", weak)
    report = run(suite, tmp_path / "out", MIM, overlays=[registry], workers=1)
    for path in report.written:
        row = read_row(path)
        assert set(row.outcomes) == {"tiny-resnet", "tiny-vgg-2bit"}
        assert "OutOfMemoryError: CUDA out of memory; memory is short: run with --workers 1" in row.failures["tiny-vgg"]
    assert len(report.written) == 2 and report.crashes


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("[enforce] can't allocate memory")])
def test_a_lack_of_memory_comes_with_advice_over_process_borders(error: Exception) -> None:
    def fail(_: int) -> None:
        raise error

    found = pickle.loads(pickle.dumps(guarded(fail, 1)))
    assert isinstance(found, TaskError) and "--workers 1" in str(found) and "in fail" in found.trace
    assert "memory" not in str(guarded(lambda _: 1 / 0, 1))
