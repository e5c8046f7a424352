"""Published CIFAR-10 networks reach their authors' accuracy through an overlay, from the original files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import yaml

from zoo.evaluate import evaluate
from zoo.registry import load, main_file

SHARED = Path(os.environ.get("ZOO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CASES = {
    "cifar10-resnet20-akamaster": "resnet20-12fca82f.th",
    "cifar10-resnet20-2bit": "apot-resnet20-2bit.pth.tar",
    "cifar10-resnet20-4bit": "apot-resnet20-4bit.pth.tar",
}


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the sample weights are not on this machine")
@pytest.mark.parametrize("name", CASES)
def test_clean_accuracy_agrees_with_the_claim(name, tmp_path):
    file = SHARED / "weights" / CASES[name]
    entry = load()[name]
    assert entry.weights and hashlib.sha256(file.read_bytes()).hexdigest() == entry.weights.sha256
    fields = {
        "parent": name,
        "data": f"parquet:{SHARED / 'cifar10-head'}",
        "weights": {"file": str(file), "sha256": entry.weights.sha256, "keymap": entry.weights.keymap},
        "clean_accuracy": yaml.safe_load(main_file().read_text())["models"][name]["clean_accuracy"],
    }
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(yaml.safe_dump({"version": 1, "models": {"theirs": fields}}))
    found = evaluate(load([overlay])["theirs"])
    assert found["n"] == 423 and found["ok"], found["line"]
