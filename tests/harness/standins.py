"""Stand-ins for the networks of an ImageNet suite: random weights on a loopback Hub, under the real names, for tests alone.

They are nets for 16 px that shrink the 299 px images themselves, so that everything around them - download, crafting at full
size, bytes, boards - is what it is with the real ones, and only the numbers mean nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import yaml

from harness.suites.suite import Suite
from tests.hub_server import Hub
from zoo import archs, quant
from zoo.quant.save import save
from zoo.registry import load as load_registry
from zoo.registry.entry import ModelEntry

TITLE = "stand-in with random weights, for tests alone"


def publish(hub: Hub, suite: Suite, folder: Path) -> Path:
    """Publish a stand-in for every model of a suite; return the registry file that shadows the real entries with them."""
    folder.mkdir()
    real = load_registry()
    models = {name: _stand_in(hub, real[name], folder) for name in suite.model_names}
    path = folder / "stand-ins.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "models": models}), encoding="utf-8")
    return path


def _stand_in(hub: Hub, entry: ModelEntry, folder: Path) -> dict[str, Any]:
    arch = next(small for kind, small in ARCHS.items() if kind in entry.arch)
    if entry.quant is not None and entry.quant.method != "apot":  # QDrop's nets are uniform ones once they are made
        entry = entry.model_copy(update={"quant": entry.quant.model_copy(update={"method": "uniform"})})
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(hashlib.sha256(entry.name.encode()).digest()[:4], "big"))
        net = archs.create(arch, 1000, in_chans=3)
        x = torch.randn(32, 3, 16, 16)
        net.train()
        net(x)
        net.eval()
        if entry.quant is not None:
            quant.quantize(net, entry.quant)
            quant.calibrate(net, x)
    path = folder / f"{entry.name}.safetensors"
    save(net, path, packed=entry.quant is not None and entry.alternation is None)
    content = path.read_bytes()
    revision = hub.add(f"stand-ins/{entry.name}", {"model.safetensors": content})
    fields = entry.model_dump(mode="json", include={"family", "data", "classes", "quant", "alternation"}, exclude_none=True)
    return {
        **fields,
        "arch": f"zoo:{arch}",
        "arch_args": {"in_chans": 3},
        "input": {"size": 16, "resize": 16, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "feature_layer": net.feature_layer,
        "weights": {
            "hub": {"repo": f"stand-ins/{entry.name}", "revision": revision},
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        },
        "notes": TITLE,
    }


ARCHS = {"mobilenet": "mobilenet-16px", "vgg": "vgg-16px", "": "resnet8-16px"}
