"""A tiny substitute and an honest attack for tests of the sandbox."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from harness.sandbox import Sandbox
from harness.suites.suite import SubstituteSpec
from zoo.loading.load import create
from zoo.registry.entry import ModelEntry

ENTRY = ModelEntry.model_validate_json(
    '{"name": "tiny", "family": "standard", "data": "digits", "arch": "zoo:resnet8-16px", "classes": 10, '
    '"input": {"size": 16, "channels": 1, "mean": [0.3], "std": [0.3]}, "feature_layer": "layer2"}'
)
HONEST = "def attack(model, x, y, *, eps, steps, rng, pool):\n    return x\n"
MIM = """
from harness.attacks import get

def attack(model, x, y, **settings):
    return get("mim")(model, x, y, **settings)
"""


def weights(folder: Path) -> Path:
    """Write the weights of the tiny substitute."""
    torch.manual_seed(0)  # initialisation draws from the global generator
    path = folder / "tiny.safetensors"
    save_file(create(ENTRY).state_dict(), path)
    return path


def images(count: int = 8) -> tuple[Tensor, Tensor]:
    """Return made-up uint8 images with labels."""
    draw = torch.Generator().manual_seed(1)
    shape = (count, 1, 16, 16)
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8), torch.arange(count) % 10


def furnish(box: Sandbox, folder: Path) -> Sandbox:
    """Hand images and the tiny substitute to a sandbox."""
    box.data(*images())
    box.substitute(SubstituteSpec(name="tiny", models=("tiny",)), [ENTRY], [weights(folder)])
    return box


def craft(box: Sandbox, source: str, indices: tuple[int, ...] = (0, 1, 2, 3), seed: int = 0) -> Tensor:
    """Craft images with an attack."""
    inside = "model.module" in source
    made = box.craft(
        {"attack.py": source},
        {},
        eps=32 / 255,
        steps=3,
        seed=seed,
        indices=indices,
        image_bytes=16 * 16 * 4,
        internals=inside,
    )
    return load(made.data)["images"]
