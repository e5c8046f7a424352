from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zoo import recipes
from zoo.data import Dataset
from zoo.loading.load import load_entry
from zoo.registry.entry import Input, ModelEntry, QuantSpec, Recipe

TWO_BITS = QuantSpec(method="apot", w_bits=2, a_bits=2)


def make_entry(name: str = "tiny", quant: QuantSpec | None = None, **recipe: Any) -> ModelEntry:
    settings: dict[str, Any] = {
        "kind": "qat" if quant else "train",
        "epochs": 1,
        "batch_size": 16,
        "lr": 0.05,
        **recipe,
    }
    return ModelEntry(
        name=name,
        family="quantized" if quant else "standard",
        data="stripes",
        arch="zoo:resnet8-16px",
        arch_args={"width": 4},
        classes=10,
        input=Input(size=16, channels=1, mean=(0.3,), std=(0.3,)),
        quant=quant,
        recipe=Recipe(**settings),
    )


def stripes(split: str, count: int) -> Dataset:
    """Ten classes of noisy stripes: learnable within an epoch."""
    generator = torch.Generator().manual_seed(len(split))
    labels = torch.arange(count) % 10
    images = torch.randint(0, 90, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, :, label : label + 6] += 150
    return Dataset("stripes", split, images, labels, tuple(f"{split}-{i}" for i in range(count)))


class Builder:
    """Builds entries into a folder, each start from what was built before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train, self.test = stripes("train", 80), stripes("test", 40)
        self.entries: dict[str, ModelEntry] = {}

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def load(self, name: str) -> nn.Module:
        return load_entry(self.entries[name], self.path(name))

    def __call__(self, entry: ModelEntry, **changes: Any) -> recipes.BuildReport:
        self.entries[entry.name] = entry
        given = {"data_train": self.train, "data_test": self.test, "out": self.path(entry.name), "resolve": self.load}
        return recipes.build(entry, **{**given, **changes})


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


@pytest.fixture
def fp_builder(tmp_path: Path) -> Builder:
    """A builder that has a trained full-precision net, "fp"."""
    made = Builder(tmp_path)
    made(make_entry("fp", epochs=2))
    return made


@pytest.fixture
def seen_states(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The state of the network in each training step, read off its quantisers by the forward pass itself."""
    from zoo.quant import activation_quantizers, weight_quantizers
    from zoo.recipes.train import Fit

    seen: list[str] = []
    original = Fit.run

    def run(fit: Fit) -> None:
        def record(module: nn.Module, args: object) -> None:
            if module.training:
                w = {q.enabled for q in weight_quantizers(module).values()}
                a = {q.enabled for q in activation_quantizers(module).values()}
                assert len(w) == len(a) == 1
                seen.append("w" * w.pop() + "a" * a.pop() or "fp")

        handle = fit.model.register_forward_pre_hook(record)
        original(fit)
        handle.remove()

    monkeypatch.setattr(Fit, "run", run)
    return lambda: seen
