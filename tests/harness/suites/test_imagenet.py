"""The main job on ImageNet, end to end: real code, real images where they are, a loopback Hub, and stand-ins for the weights."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cli import main
from harness.records.rows import read_rows
from harness.suites.suite import load
from tests.harness.standins import publish
from tests.hub_server import Hub, serve
from zoo.data import hub as hub_sets
from zoo.data.hub import File, Pinned

SHARED = Path(os.environ.get("ZOO_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
REAL = SHARED / "imagenet-compatible-100" / "data" / "test-00000-of-00001.parquet"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    hub_sets.load.cache_clear()
    with serve(tmp_path / "hub") as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served
    hub_sets.load.cache_clear()


def drawn() -> bytes:
    """An archive of three drawn images of 299 px, as the real one is laid out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("data/labels.csv", "filename,label\n" + "".join(f"{i}.png,{i}\n" for i in (0, 7, 999)))
        for i in (0, 7, 999):
            wave = np.sin(np.arange(299) / (5 + i % 11))
            pixels = 127 + 100 * wave[:, None, None] * wave[None, :, None] * np.ones(3)
            image = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(image, "PNG")
            file.writestr(f"data/images/{i}.png", image.getvalue())
    return out.getvalue()


def serve_images(hub: Hub, monkeypatch: pytest.MonkeyPatch, path: str, content: bytes) -> None:
    """Serve a file as the suite's images, in place of the real archive."""
    revision = hub.add("stand-ins/images", {path: content}, kind="datasets")
    file = File(path, hashlib.sha256(content).hexdigest(), len(content))
    pinned = Pinned("stand-ins/images", revision, {"test": (file,)}, classes=1000, side=299)
    monkeypatch.setitem(hub_sets.SETS, "imagenet-compatible", pinned)


def harness(registry: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["--registry", str(registry), *arguments], prog_name="harness")
        raise SystemExit(0)
    return int(end.value.code or 0)


def test_imagenet_qnn_runs_end_to_end(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load("imagenet-qnn")
    registry = publish(hub, suite, tmp_path / "models")
    serve_images(hub, monkeypatch, "data.zip", drawn())
    part = ("--suite", "imagenet-qnn", "--attack", "mim", "--seed", "0")
    part = (*part, "--substitute", "resnet34", "--substitute", "resnet34-2bit-qaa", "--out", "out")
    assert harness(registry, "run", *part, "--workers", "1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    rows = list(read_rows(tmp_path / "out" / "imagenet-qnn" / "v1"))
    assert {(row.substitute, row.attack) for row in rows} == {
        ("resnet34", "mim"),
        ("resnet34-2bit-qaa", "mim"),
    }
    for row in rows:
        assert set(row.outcomes) == set(suite.target_names) and not row.failures and row.images == 3 and row.max_level == 16
    assert shown["suite"]["name"] == "imagenet-qnn" and len(shown["rows"]) == 2
    fetched = [path for path in hub.paths() if "/resolve/" in path]
    assert len({p for p in fetched if "stand-ins/resnet50-2bit" in p}) == 1, "weights come from the Hub, once"
    assert harness(registry, "board", "--suite", "imagenet-qnn", "--out", "out", "--check") == 0
    assert harness(registry, "compare", "--suite", "imagenet-qnn", "--paper", "--out", "out") == 0
    assert "87.6" in capsys.readouterr().out, "the paper's figure for resnet34 x mim on resnet50-2bit"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="needs the 100 real images")
def test_imagenet_qnn_runs_on_real_images(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIM on every substitute and every attack on the QAA ones, on 16 of the real images and with one seed."""
    suite = load("imagenet-qnn")
    registry = publish(hub, suite, tmp_path / "models")
    serve_images(hub, monkeypatch, "test-00000-of-00001.parquet", REAL.read_bytes())
    arguments = ("--suite", "imagenet-qnn", "--seed", "0", "--limit", "16", "--out", "out", "--workers", "1")
    assert harness(registry, "run", *arguments, "--attack", "mim") == 0
    both = [pair.substitute for pair in suite.pairs]
    assert harness(registry, "run", *arguments, "--substitute", both[0], "--substitute", both[1]) == 0
    rows = list(read_rows(tmp_path / "out" / "imagenet-qnn" / "v1-limit16"))
    assert len(rows) == len(suite.substitutes) + 2 * (len(suite.attacks) - 1) == 16
    for row in rows:
        assert set(row.outcomes) == set(suite.target_names) and row.images == 16 and 0 < row.max_level <= 16
