"""Tiny random networks and a suite of them, so that a test of the machinery runs in a second or two."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from harness.runs import runner
from harness.runs.runner import Report
from harness.runs.unfinished import Request
from harness.suites.selection import Selection
from harness.suites.suite import Suite, load
from zoo import archs, quant
from zoo.data import load as load_data
from zoo.quant.save import save
from zoo.registry.entry import QuantSpec

SUITE = """
name: tiny
version: 1
title: Random networks of no accuracy
data: {name: digits, split: test, limit: 25}
budget: {norm: linf, levels: 32}
steps: 3
block: 5
attacks: [pgd, mim]
substitutes: [tiny-resnet, tiny-resnet-2bit]
pairs: [{substitute: tiny-resnet-2bit, baseline: tiny-resnet}]
targets: {Standard: [tiny-vgg, tiny-resnet], QNN: [tiny-vgg-2bit]}
"""
ARCHS = {"tiny-resnet": "resnet8-16px", "tiny-vgg": "vgg-16px"}


def make(folder: Path, text: str = SUITE) -> tuple[Suite, Path]:
    """Write the networks, a registry and the suite into a folder; return the suite and the registry file."""
    folder.mkdir(parents=True, exist_ok=True)
    models: dict[str, Any] = {}
    for name, arch in ARCHS.items():
        for bits in (32, 2):
            entry: dict[str, Any] = {
                "family": "standard" if bits == 32 else "quantized",
                "data": "digits",
                "arch": f"zoo:{arch}",
                "classes": 10,
                "input": {"size": 16, "channels": 1, "mean": [0.3], "std": [0.4]},
            }
            if bits == 2:
                entry["quant"] = {"method": "apot", "w_bits": 2, "a_bits": 2}
                entry["alternation"] = {"states": ["w", "wa"]}
            own = name if bits == 32 else f"{name}-2bit"
            models[own] = {**entry, "weights": write_weights(folder / f"{own}.safetensors", arch, entry.get("quant"))}
    registry = folder / "tiny-models.yaml"
    registry.write_text(yaml.safe_dump({"version": 1, "models": models}), encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return load(str(path)), registry


def write_weights(path: Path, arch: str, spec: Mapping[str, Any] | None) -> dict[str, str]:
    """Write seeded random weights and return where they are, as a registry says it."""
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big"))
        net = archs.create(arch, 10)
        x = (load_data("digits", "test").images[:32].float() / 255 - 0.3) / 0.4
        net.train()
        net(x)
        net.eval()
        if spec is not None:
            quant.quantize(net, QuantSpec(**spec))
            quant.calibrate(net, x)
    save(net, path, packed=spec is not None)
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def run(suite: Suite, out: Path, selection: Selection | None = None, **asked: Any) -> Report:
    """Run a suite as a test asks for it, in this process unless it asks for workers."""
    part, notify = selection or Selection(), asked.pop("notify", None)
    overlays = tuple(str(path) for path in asked.pop("overlays", ()))
    request = Request(
        suite=asked.pop("source", suite.name),
        attacks=part.attacks,
        substitutes=part.substitutes,
        targets=part.targets,
        seeds=part.seeds,
        overlays=overlays,
        **{"workers": 1, **asked},
    )
    return runner.run(suite, request, out, notify)
