"""Faster precisions are declared, kept apart, and say how far they are from exact."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.board import load
from harness.records.rows import read_row, read_rows
from harness.runs.parity import PARITY, read_parity
from harness.runs.reproduce import reproduce
from harness.runs.workspace import Context, declared, open_workspace, workspace_of
from harness.suites.selection import Selection
from tests.harness.tiny import make, run
from zoo.intervals import wilson
from zoo.kernels import fixed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_fast_run_has_a_folder_rows_and_keys_of_its_own(cache: Path) -> None:
    suite, registry = make(cache)
    options = {"overlays": (str(registry),), "workers": 1}
    exact = run(suite, cache / "out", **options)
    fast = run(suite, cache / "out", precision="bf16", **options)
    assert (exact.folder.name, fast.folder.name) == ("v1", "v1-bf16")
    assert {row.provenance.precision for row in read_rows(exact.folder)} == {None}
    assert {row.provenance.precision for row in read_rows(fast.folder)} == {"bf16"}
    assert len(load(fast.folder).lines) == 4
    first, second = (read_row(folder / "rows" / "tiny-resnet--mim--s0.json") for folder in (exact.folder, fast.folder))
    assert first.images_sha256 != second.images_sha256 and first.job_sha256 == second.job_sha256
    keys = {
        workspace_of(Context(suite, (str(registry),), precision=precision, compiled=compiled)).craft_key(
            "tiny-resnet", "mim", 0
        )
        for precision in ("exact", "tf32", "bf16")
        for compiled in (False, True)
    }
    assert len(keys) == 6


def test_the_report_of_parity_counts_what_differs(cache: Path) -> None:
    suite, registry = make(cache)
    options = {"overlays": (str(registry),), "workers": 1}
    exact = run(suite, cache / "out", **options)
    fast = run(suite, cache / "out", precision="bf16", **options)
    parity = read_parity(fast.folder / PARITY)
    assert parity.precision == "bf16" and len(parity.jobs) == 4
    labels = open_workspace(suite, None, "cpu", (str(registry),)).data.labels[:5].numpy()
    for name, found in parity.jobs.items():
        there, here = (read_row(folder / "rows" / f"{name}.json").outcomes for folder in (fast.folder, exact.folder))
        a, b = (np.stack([o.adv.array[:5] for o in outcomes.values()]) for outcomes in (there, here))
        assert found.images == 5 and found.targets == 3
        assert found.predictions_differ == (a != b).mean() and found.images_differ == (a != b).any(0).mean()
        assert found.interval == wilson(int((a != b).any(0).sum()), 5)
        assert found.rate_moves == pytest.approx((a != labels).mean() - (b != labels).mean())
    assert not (exact.folder / PARITY).exists()


def test_a_fast_row_is_reproduced_as_it_was_made(cache: Path) -> None:
    suite, registry = make(cache)
    folder = run(suite, cache / "out", precision="bf16", overlays=(str(registry),), workers=1).folder
    verdict = reproduce(folder / "rows" / "tiny-resnet-2bit--mim--s0.json", overlays=(str(registry),))
    assert verdict.images_identical and verdict.agrees


@pytest.mark.parametrize(
    ("how", "precision", "compiled"),
    [(None, "exact", False), ("tf32", "tf32", False), ("bf16-compiled", "bf16", True), ("compiled", "exact", True)],
)
def test_what_a_row_declares_is_read_back(how: str | None, precision: str, compiled: bool, cache: Path) -> None:
    assert declared(how) == {"precision": precision, "compiled": compiled}
    assert Context(make(cache)[0], precision=precision, compiled=compiled).how == how  # type: ignore[arg-type]


def test_precisions_set_what_they_name_and_put_it_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for precision, matmul, tf32, auto in (
        ("exact", "highest", False, False),
        ("tf32", "high", True, False),
        ("bf16", "high", True, True),
    ):
        with fixed("cpu", precision):  # type: ignore[arg-type]
            assert torch.get_float32_matmul_precision() == matmul
            assert torch.backends.cudnn.allow_tf32 == tf32 and torch.is_autocast_enabled("cpu") == auto
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with a C++ compiler")
def test_a_compiled_run_agrees_with_the_plain_one(cache: Path) -> None:
    suite, registry = make(cache)
    options = {"overlays": (str(registry),), "workers": 1, "limit": 5}
    few = Selection(attacks=("mim",), substitutes=("tiny-resnet",), targets=("tiny-vgg",))  # compiling takes minutes
    fast = run(suite, cache / "out", few, compiled=True, **options)
    assert fast.folder.name == "v1-limit5-compiled"
    for found in read_parity(fast.folder / PARITY).jobs.values():
        assert found.predictions_differ <= 0.2
