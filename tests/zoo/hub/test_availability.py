"""What `zoo list` says of a model's bytes is what loading it would do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from zoo.hub.pulling import availability
from zoo.hub.store import place_for
from zoo.loading.load import weights_path
from zoo.recipes import BuildReport
from zoo.recipes.making import against_registry
from zoo.registry.entry import Input, ModelEntry, Recipe, Weights

PINNED = save({"w": torch.zeros(3)})
SHA = hashlib.sha256(PINNED).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    return tmp_path


def entry(recipe: bool = False, **weights: Any) -> ModelEntry:
    return ModelEntry(
        name="a",
        family="standard",
        data="digits",
        arch="zoo:resnet8-16px",
        classes=10,
        input=Input(size=16, channels=1, mean=(0.5,), std=(0.5,)),
        weights=Weights(**weights) if weights else None,
        recipe=Recipe(kind="train") if recipe else None,
    )


def build() -> None:
    place_for("a").parent.mkdir(parents=True)
    place_for("a").write_bytes(b"built here")


def test_a_pinned_file_takes_precedence_over_one_that_was_built(tmp_path: Path) -> None:
    build()
    assert availability(entry(recipe=True)) == "built"
    assert availability(entry(url="http://localhost/a", sha256=SHA)) == "url"
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / SHA).write_bytes(PINNED)
    pinned = entry(url="http://localhost/a", sha256=SHA)
    assert availability(pinned) == "cache" and weights_path(pinned).read_bytes() == PINNED


def test_what_no_hash_pins_is_no_ready_file(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(PINNED)
    assert availability(entry(file=str(tmp_path / "own"), sha256=SHA)) == "file"
    assert availability(entry(file=str(tmp_path / "own"))) == "unpinned"
    assert availability(entry(recipe=True)) == "build" and availability(entry()) == "missing"


def test_a_build_says_when_the_pinned_file_stays_in_use(tmp_path: Path) -> None:
    made = BuildReport("a", tmp_path / "a.safetensors", "0" * 64, 1, 90.0, {}, 1.0, {})
    words = against_registry(entry(url="http://localhost/a", sha256=SHA), made)
    assert "keeps precedence" in words and str(made.path) in words and made.sha256 in words
    assert "precedence" not in against_registry(entry(recipe=True), made)
