"""Files that were built here are what their builds wrote, or are not used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zoo.cli import main
from zoo.errors import UserError
from zoo.hub.store import place_for
from zoo.loading.load import create, weights_path
from zoo.quant import save
from zoo.registry import load

OVERLAY = """
version: 1
models:
  mine:
    family: standard
    data: digits
    arch: zoo:resnet8-16px
    classes: 10
    input: {size: 16, channels: 1, mean: [0.5], std: [0.5]}
    recipe: {kind: train, epochs: 1, batch_size: 100, lr: 0.1}
"""


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mine.yaml"
    path.write_text(OVERLAY)
    return path


@pytest.fixture
def built(overlay: Path) -> Path:
    """A model as a build leaves it."""
    path = place_for("mine")
    save(create(load([overlay])["mine"]), path, packed=False)
    content = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
    path.with_suffix(".json").write_text(json.dumps(content))
    return path


def run(overlay: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--registry", str(overlay), *arguments])


def alter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_a_built_file_is_used_while_it_is_what_was_built(overlay: Path, built: Path) -> None:
    entry = load([overlay])["mine"]
    assert weights_path(entry) == built == weights_path(entry)
    alter(built)
    with pytest.raises(UserError, match=r"was altered; zoo build mine"):
        weights_path(entry)


def test_a_file_without_a_log_of_its_build_is_not_used(overlay: Path, built: Path) -> None:
    built.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"no mine\.json .*records its sha256"):
        weights_path(load([overlay])["mine"])
    assert "unlisted" in run(overlay, "verify", "mine").stdout


def test_an_unchanged_file_is_hashed_once(overlay: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = load([overlay])["mine"]
    weights_path(entry)
    monkeypatch.setattr("zoo.hub.store.sha256_of", lambda path: pytest.fail("hashed again"))
    weights_path(entry)


def test_pull_and_verify_find_an_altered_build(overlay: Path, built: Path) -> None:
    assert run(overlay, "pull", "mine").stdout == f"mine: {built}\n"
    verified = run(overlay, "verify", "mine")
    assert verified.exit_code == 0 and "1 ok" in verified.stderr
    alter(built)
    pulled = run(overlay, "pull", "mine")
    assert pulled.exit_code == 2 and pulled.stdout == "" and "was altered" in pulled.stderr
    for arguments in (("verify", "mine"), ("verify",)):
        found = run(overlay, *arguments, "--json")
        assert found.exit_code == 1
        assert [(v["name"], v["status"]) for v in json.loads(found.stdout) if v["path"] == str(built)] == [("mine", "altered")]


def test_the_cache_lists_sizes_and_removes_built_files(overlay: Path, built: Path) -> None:
    images = built.parent.parent / "images"
    images.mkdir()
    (images / "x.u8").write_bytes(bytes(2000))
    listed = run(overlay, "cache", "list", "--json")
    [row, folder] = json.loads(listed.stdout)
    assert folder["key"] == "images" and folder["size"] == 2000
    assert row["models"] == ["mine"] and row["source"] == "built here" and row["size"] == built.stat().st_size
    assert "2.0 kB in images" in listed.stderr
    parts = json.loads(run(overlay, "cache", "size", "--json").stdout)["parts"]
    assert parts["images"] == 2000 and parts["built"] > built.stat().st_size
    assert "removed 0 files" in run(overlay, "cache", "remove", "--all").stdout and built.is_file()
    assert "removed 1 files" in run(overlay, "cache", "remove", "mine").stdout
    assert not list(built.parent.iterdir())


def test_all_that_the_cache_holds_is_listed_and_removed(overlay: Path, built: Path) -> None:
    root = built.parent.parent
    held = {"checkpoints/mine.pt": 300, "checkpoints/mine.pt.snapshots/000": 70, "images/x.u8": 20, "bench.jsonl": 9}
    for name, size in held.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))
    rows = {r["key"]: r for r in json.loads(run(overlay, "cache", "list", "--json").stdout)}
    assert rows["mine.pt"]["size"] == 370 and rows["mine.pt"]["models"] == ["mine"]
    assert rows["images"]["size"] == 20 and rows["bench.jsonl"]["size"] == 9
    assert "removed 1 files, 370 B" in run(overlay, "cache", "remove", "--unfinished").stdout and built.is_file()
    wrong = run(overlay, "cache", "remove", "--part", "image")
    assert wrong.exit_code == 2 and "it has bench.jsonl, built" in wrong.stderr
    removed = run(overlay, "cache", "remove", "--built", "--part", "images", "--part", "bench.jsonl")
    assert "images, bench.jsonl" in removed.stdout
    assert json.loads(run(overlay, "cache", "list", "--json").stdout) == []


@pytest.mark.parametrize("by", ["key", "flag"])
def test_a_built_file_is_removed_by_its_key_or_with_all_others(overlay: Path, built: Path, by: str) -> None:
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    assert "removed 1 files" in run(overlay, "cache", "remove", digest[:12] if by == "key" else "--built").stdout
    assert not built.exists()
