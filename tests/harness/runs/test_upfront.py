"""What cannot run says so before anything is downloaded or computed, and says what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli import main as harness_main
from harness.suites.suite import load, names
from zoo.cli import main as zoo_main
from zoo.hub.pulling import whereabouts
from zoo.registry import load as load_registry

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("ZOO_DATA", "ZOO_IMAGENET", "ZOO_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(harness_main, arguments)


def test_the_list_of_suites_counts_models_by_where_they_are() -> None:
    rows = {row["name"]: row for row in json.loads(harness("list", "--json").stdout)}
    registry = load_registry()
    assert set(rows) == set(names())
    for name, row in rows.items():
        suite = load(name)
        assert sum(row[where] for where in ("here", "pull", "build", "missing")) == len(set(suite.model_names))
    assert (rows["digits-qnn"]["pull"], rows["digits-qnn"]["build"], rows["digits-qnn"]["missing"]) == (0, 0, 0)
    qnn = whereabouts(load("imagenet-qnn").model_names, registry)
    assert rows["imagenet-qnn"]["build"] == len(qnn["build"]) > 5 and "resnet34-2bit" in qnn["build"]
    assert rows["imagenet-qnn"]["pull"] == len(qnn["pull"]) >= 1 and "resnet34" in qnn["pull"]


def test_the_status_of_a_suite_names_what_it_lacks(tmp_path: Path) -> None:
    told = harness("status", "--suite", "imagenet-qnn", "--out", str(tmp_path))
    assert told.exit_code == 0, told.output
    [pull] = re.findall(r"to download \(\d+ MB.*; zoo pull --suite imagenet-qnn\): .*", told.stderr)
    [build] = re.findall(r"to build \(zoo build --suite imagenet-qnn; .*", told.stderr)
    assert "resnet34" in pull and "resnet34-2bit" in build
    assert "to download" not in harness("status", "--suite", "digits-qnn", "--out", str(tmp_path)).output


@pytest.mark.parametrize("limit", [(), ("--limit", "100")])
def test_a_plan_needs_neither_network_nor_images_nor_models(tmp_path: Path, limit: tuple[str, ...]) -> None:
    made = harness("plan", "--suite", "imagenet-qnn", "--out", str(tmp_path), *limit, "--json")
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    assert found["images"] == (100 if limit else 1000) and "offline mode" in found["data_missing"]
    assert found["disk"] > 0 and {job["done"] for job in found["jobs"]} == {0}
    routes = {model["name"]: model["route"] for model in found["models"]}
    assert routes["resnet34"] == "hub" and routes["resnet34-2bit"] == "build"
    shown = harness("plan", "--suite", "imagenet-qnn", "--out", str(tmp_path), *limit)
    assert "to build (zoo build --suite imagenet-qnn" in shown.stdout and "jobs on" in shown.stdout
    assert not list((tmp_path / "cache").rglob("blobs/*"))


def test_a_build_says_all_that_it_needs(tmp_path: Path) -> None:
    told = CliRunner().invoke(zoo_main, ["build", "resnet34-2bit"])
    assert told.exit_code == 2 and told.stderr.startswith("Error: resnet34-2bit trains on imagenet"), told.output
    assert all(words in told.stderr for words in ("ZOO_IMAGENET", "docs/setting-up.md", "zoo pull resnet34"))


def test_a_build_whose_start_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.recipes.making.training", lambda name: None)
    told = CliRunner().invoke(zoo_main, ["build", "resnet34-2bit"])
    assert told.exit_code == 2 and "get them with: zoo pull resnet34." in told.stderr, told.output
    assert "ImageNet's training images" in told.stderr


def test_every_environment_variable_is_in_the_table() -> None:
    page = (ROOT / "docs" / "setting-up.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.M))
    sources = [*(ROOT / "zoo").rglob("*.py"), *(ROOT / "harness").rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\b(?:ZOO|HF)_[A-Z]+(?:_[A-Z]+)*\b", path.read_text("utf-8"))}
    ours = {name for name in named if not name.startswith("HF_")} | {"HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"}
    assert ours <= table, ours - table
    assert "docs/setting-up.md" in (ROOT / "README.md").read_text(encoding="utf-8")
