"""Recipe kind `export`: built after its start, kept while nothing changed, refused where it cannot fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo import registry
from zoo.errors import UserError
from zoo.hub.store import built_path, verified_path
from zoo.loading.load import weights_path
from zoo.recipes.exporting import check_input, start_of
from zoo.recipes.making import find, make, suffix
from zoo.registry import load
from zoo.registry.entry import Recipe

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

OVERLAY = """
version: 1
models:
  mine:
    parent: digits-nin-8bit
    engine: {name: onnxruntime}
    input: {size: 16, channels: 1, mean: [0], std: [1]}
    recipe: {kind: export, start: digits-nin-8bit}
"""


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mine.yaml"
    path.write_text(OVERLAY)
    return path


def test_an_export_is_built_once_and_is_then_the_entrys_file(overlay: Path) -> None:
    known = load([overlay])
    entry = known["mine"]
    assert find(entry) is None and suffix(entry) == ".onnx"
    (first,) = make([entry], known)
    assert first.path.name == "mine.onnx" and not first.kept and first.top1 is None
    assert weights_path(entry) == verified_path("mine") == built_path("mine") == first.path
    log = json.loads(first.path.with_suffix(".json").read_text())
    weights = known["digits-nin-8bit"].weights
    assert weights is not None and log["start_sha256"] == weights.sha256 and log["sha256"] == first.sha256
    (second,) = make([entry], known)
    assert second.kept and second.sha256 == first.sha256
    first.path.write_bytes(first.path.read_bytes() + b"x")
    with pytest.raises(UserError, match="was altered"):
        verified_path("mine")


def test_settings_that_no_export_has_are_refused() -> None:
    entry = registry.load()["digits-nin-8bit-onnx"]

    def with_recipe(**changes: object) -> None:
        fields = {"kind": "export", "start": "digits-nin-8bit", **changes}
        start_of(entry.model_copy(update={"recipe": Recipe.model_validate(fields)}))

    with_recipe(cost="10 s")
    with pytest.raises(UserError, match=r"recipe\.start: missing"):
        with_recipe(start=None)
    with pytest.raises(UserError, match=r"recipe\.epochs: an export trains nothing"):
        with_recipe(epochs=3)
    with pytest.raises(UserError, match=r"engine: \{name: onnxruntime\}"):
        start_of(entry.model_copy(update={"engine": None}))


def test_an_entry_must_state_the_input_that_the_file_takes() -> None:
    known = registry.load()
    entry, start = known["digits-nin-8bit-onnx"], known["digits-nin-8bit"]
    check_input(entry, start)
    for changes in ({"mean": (0.3,)}, {"size": 32}, {"interpolation": "bicubic"}, {"resize": 32}):
        other = entry.model_copy(update={"input": entry.input.model_copy(update=changes)})
        with pytest.raises(UserError, match=r"state input: \{size: 16, channels: 1, mean: \[0\.0\], std: \[1\.0\]\}"):
            check_input(other, start)
    with pytest.raises(UserError, match="and label_offset: 0"):
        check_input(entry.model_copy(update={"label_offset": 1}), start)
