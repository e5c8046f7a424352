"""The images that ship with the package: a hundred, pinned, each with its author."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zoo import registry
from zoo.data import load, mini
from zoo.errors import UserError
from zoo.evaluate import predictions
from zoo.hub.weights import bundled_file
from zoo.loading.load import load_entry


def test_a_hundred_images_with_labels_and_authors() -> None:
    images = load(mini.NAME)
    assert images.images.shape == (100, 3, 299, 299) and images.digest == mini.DIGEST
    assert len(set(images.ids)) == 100 and len(set(images.labels.tolist())) > 80
    lines = bundled_file(f"{mini.NAME}.txt").read_text(encoding="utf-8").splitlines()[6:]
    assert len(lines) == 100
    assert all(re.fullmatch(r"[0-9a-f]{16}\.webp  \S.*\S  https?://\S+", line) for line in lines), "file, author, source"
    assert bundled_file(f"{mini.NAME}.parquet").stat().st_size <= 9_000_000


def test_a_deployed_network_recognises_them() -> None:
    pytest.importorskip("ai_edge_litert.interpreter")
    images = load(mini.NAME)
    found = predictions(load_entry(registry.load()["mobilenet-v2-uint8"]), images.images)
    assert (found == images.labels).float().mean() > 0.8


def test_it_is_for_testing_and_an_altered_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="too small to train on"):
        load(mini.NAME, "train")
    mini.load.cache_clear()
    monkeypatch.setattr(mini, "DIGEST", "0" * 64)
    with pytest.raises(UserError, match="was altered"):
        load(mini.NAME)
    monkeypatch.setattr(mini, "bundled_file", lambda name: tmp_path / name)
    with pytest.raises(UserError, match="install it again"):
        load(mini.NAME)
    mini.load.cache_clear()
