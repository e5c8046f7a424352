"""What is published stays true: files and rows agree, and the registry still names the bytes that were measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.board import check
from harness.records.pinned import PinnedSuite
from harness.runs.reproduce import reproduce
from zoo.registry import load

FOLDERS = sorted((Path(__file__).parent.parent / "leaderboards").glob("*/v*"))


def newest(folder: Path) -> bool:
    return folder == max(folder.parent.glob("v*"), key=lambda path: int(path.name[1:]))


def test_the_embedded_suite_is_published() -> None:
    assert any(folder.parent.name == "digits-qnn" for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_board_files_and_rows_agree(folder: Path) -> None:
    assert check(folder) == []


@pytest.mark.parametrize("folder", [f for f in FOLDERS if newest(f)], ids=lambda path: path.parent.name)
def test_the_registry_names_the_bytes_that_were_measured(folder: Path) -> None:
    registry = load()
    for name, model in PinnedSuite.read(folder).models.items():
        weights = registry[name].weights
        assert weights is not None and weights.sha256 == model.sha256, name


def test_one_published_row_agrees_when_it_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processors may round the last bits otherwise, so the rates must agree; here they are the same bytes."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    row = Path(__file__).parent.parent / "leaderboards" / "digits-qnn" / "v1" / "rows" / "digits-vgg-2bit-qaa--mim--s0.json"
    assert reproduce(row).agrees
