"""The weights that ship: as small, as accurate and as reproducible as the registry says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import zoo
from zoo.data import load as load_data
from zoo.evaluate import predictions
from zoo.loading.load import load_entry
from zoo.quant import is_quantized, read_metadata, states
from zoo.recipes import build, build_order, needs
from zoo.registry import load as load_registry
from zoo.registry.entry import ModelEntry

REGISTRY = load_registry()
DIGITS = [e for e in REGISTRY.match(["digits-*"]) if e.weights is not None and e.engine is None]
EXPORTS = [e for e in REGISTRY.values() if e.weights is not None and (e.weights.bundled or "").endswith(".onnx")]
CIFAR = [e for e in REGISTRY.match(["cifar10-*"]) if ((e.weights and e.weights.bundled) or "").endswith(".safetensors")]
FOLDER = Path(zoo.__file__).parent / "bundled"


def bundled(entry: ModelEntry) -> Path:
    assert entry.weights is not None and entry.weights.bundled is not None
    return FOLDER / entry.weights.bundled


@pytest.mark.parametrize("entry", DIGITS, ids=lambda entry: entry.name)
def test_each_file_is_what_the_registry_says(entry: ModelEntry) -> None:
    data = bundled(entry).read_bytes()
    assert entry.weights is not None and entry.clean_accuracy is not None and entry.recipe is not None
    assert entry.weights.size == len(data) and entry.weights.sha256 == hashlib.sha256(data).hexdigest()
    log = json.loads(read_metadata(bundled(entry))["log"])
    recipe = json.loads(json.dumps(entry.recipe.model_dump(mode="json", exclude={"cost"}, exclude_none=True)))
    assert log["recipe"] == recipe, "the file was made by another recipe than the registry's"
    test = load_data("digits", "test")
    model = load_entry(entry, bundled(entry))
    top1 = 100 * float((predictions(model, test.images) == test.labels).double().mean())
    assert top1 == pytest.approx(entry.clean_accuracy.top1, abs=0.21), "one image may differ between machines"


def test_the_files_together_stay_small_and_none_is_left_over() -> None:
    files = {path.name for path in FOLDER.glob("*.safetensors")}
    shipped = [e for e in REGISTRY.values() if e.weights is not None and (e.weights.bundled or "").endswith(".safetensors")]
    assert files == {bundled(entry).name for entry in shipped}
    bounds = {"digits-": 5_000_000, "cifar10-": 20_000_000, "efficientnet-": 12_000_000}
    assert all(name.startswith(tuple(bounds)) for name in files)
    for family, bound in bounds.items():
        assert sum((FOLDER / name).stat().st_size for name in files if name.startswith(family)) <= bound, family


@pytest.mark.parametrize("entry", CIFAR, ids=lambda entry: entry.name)
def test_each_cifar_file_is_pinned_and_made_by_its_recipe(entry: ModelEntry) -> None:
    data = bundled(entry).read_bytes()
    assert entry.weights is not None and entry.recipe is not None
    assert entry.weights.size == len(data) and entry.weights.sha256 == hashlib.sha256(data).hexdigest()
    log = json.loads(read_metadata(bundled(entry))["log"])
    recipe = json.loads(json.dumps(entry.recipe.model_dump(mode="json", exclude={"cost"}, exclude_none=True)))
    assert log["recipe"] == recipe, "the file was made by another recipe than the registry's"
    then = log["test_top1"].get("wa", log["test_top1"].get("fp"))  # of the first 2,000 test images, as it was made
    claimed = then if entry.clean_accuracy is None else entry.clean_accuracy.top1
    assert log["train"]["images"] == 49_924 and abs(then - claimed) < 2


@pytest.mark.parametrize("name", [f"cifar10-{n}" for n in ("resnet20", "resnet20-2bit-qaa", "nin-1bit", "mobilenet-small-8bit")])
def test_cifar_files_load_and_run(name: str) -> None:
    logits = zoo.load(name)(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 10) and bool(torch.isfinite(logits).all())


def test_only_nets_that_others_start_from_keep_latent_weights() -> None:
    started = {name for entry in DIGITS for name in needs(entry)}
    for entry in DIGITS:
        model = load_entry(entry, bundled(entry))
        if is_quantized(model):
            assert ("fp" in states(model)) == (entry.name in started), entry.name


def test_all_can_be_built_from_nothing_in_an_order_that_serves_their_starts() -> None:
    names = [entry.name for entry in build_order(DIGITS, REGISTRY, lambda entry: False)]
    assert sorted(names) == sorted(entry.name for entry in DIGITS)
    assert all(names.index(start) < names.index(entry.name) for entry in DIGITS for start in needs(entry))


def test_rebuilding_gives_an_equal_net(tmp_path: Path) -> None:
    entry = REGISTRY["digits-vgg-2bit-qaa"]
    report = build(
        entry,
        resolve=lambda name: load_entry(REGISTRY[name], bundled(REGISTRY[name])),
        data_train=load_data("digits", "train"),
        data_test=load_data("digits", "test"),
        out=tmp_path / "again.safetensors",
    )
    assert entry.clean_accuracy is not None and report.size == entry.weights.size  # type: ignore[union-attr]
    assert report.top1 == pytest.approx(entry.clean_accuracy.top1, abs=1)
