"""`zoo import`: a registry entry for an integer TFLite file that is read into torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from zoo.errors import UserError
from zoo.hub.cache import sha256_of
from zoo.loading.tflite import Imported, read_network
from zoo.registry.entry import ModelEntry
from zoo.registry.yamlfile import validate

BACKGROUND = 1001
"""Classes of TensorFlow's ImageNet networks, whose first is the background."""


def entry_fields(path: Path, name: str, data: str, arch: str | None = None) -> tuple[dict[str, Any], str]:
    """Return the fields of an entry that reads a file into torch, and a sentence on what the file holds.

    Args:
        path: An integer TFLite file.
        name: The entry's name.
        data: The data set that it classifies.
        arch: `file:NAME` by default.

    Raises:
        UserError: the file is not read, gives no gradient, or the name or architecture is none.
    """
    imported = read_network(path)
    offset = int(imported.classes == BACKGROUND)
    fields: dict[str, Any] = {
        "family": "quantized",
        "data": data,
        "arch": arch or f"file:{name}",
        "classes": imported.classes - offset,
        **({"label_offset": offset} if offset else {}),
        "input": {
            "size": imported.side,
            **({"channels": imported.channels} if imported.channels != 3 else {}),
            "mean": [0.0] * imported.channels,
            "std": [1.0] * imported.channels,
            "resize": imported.side,
        },
        "quant": {"method": "integer", "w_bits": 8, "a_bits": 8},
        "feature_layer": imported.net.feature_layer,
        "weights": {
            "file": str(path.resolve()),
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
            "keymap": "tflite",
        },
    }
    validate(ModelEntry, {"name": name, **fields}, f"models.{name}")
    check_gradient(imported, path)
    kinds = sorted({(operator, imported.operators.count(operator)) for operator in imported.operators})
    told = ", ".join(f"{count} {operator}" for operator, count in kinds)
    return fields, f"{path}: {imported.side} x {imported.side} pixels, {imported.classes} classes; {told}"


def check_gradient(imported: Imported, path: Path) -> None:
    """Refuse a network that no gradient gets through on noise, on which no attack could work."""
    size = (2, imported.channels, imported.side, imported.side)
    x = torch.rand(size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(imported.net(x).logsumexp(1).sum(), x)
    if not bool(torch.isfinite(gradient).all()) or not bool(gradient.any()):
        raise UserError(
            f"{path}: no finite gradient other than 0 gets through the network on noise, so it is no substitute"
        )


def registry_text(name: str, fields: dict[str, Any]) -> str:
    """Return a registry file with the entry."""
    text = yaml.safe_dump({"version": 1, "models": {name: fields}}, sort_keys=False, width=120, default_flow_style=None)
    return str(text)
