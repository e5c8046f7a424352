"""Published CIFAR-10 networks reach their authors' accuracy through the overlay of the examples, from the original files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from zoo.evaluate import evaluate
from zoo.registry import load

ROOT = Path(__file__).parents[2]
OVERLAY = ROOT / "examples" / "registries" / "cifar10-third-party.yaml"
SHARED = Path(os.environ.get("ZOO_SHARED_DATA", ROOT.parent / "shared" / "data"))
NAMES = ["cifar10-resnet20-akamaster", "cifar10-resnet32-akamaster", "cifar10-resnet20-2bit-li", "cifar10-resnet20-4bit-li"]


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the sample weights are not on this machine")
@pytest.mark.parametrize("name", NAMES)
def test_clean_accuracy_agrees_with_the_claim(name: str, tmp_path: Path) -> None:
    overlay = Path(shutil.copy(OVERLAY, tmp_path))
    file = Path(str(load([overlay])[name].weights.file))  # type: ignore[union-attr]
    file.symlink_to(SHARED / "weights" / file.name)
    found = evaluate(load([overlay])[name], data=f"parquet:{SHARED / 'cifar10-head'}")
    assert found["n"] == 423 and found["ok"], found["line"]
