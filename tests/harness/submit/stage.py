"""A tiny suite, honest submissions on it, and bundles to tamper with."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from harness.sandbox import Limits
from harness.submit.make import Walls
from harness.submit.pack import pack
from harness.suites.suite import Suite
from harness.suites.suite import load as load_suite

SUITE = """
name: tiny
version: 1
title: A tiny suite
data: {name: digits, split: test, limit: 20}
budget: {norm: linf, levels: 32}
steps: 2
block: 10
seeds: [0]
attacks: [mim]
substitutes: [digits-vgg, digits-resnet14-2bit-qaa]
targets: {Standard: [digits-nin, digits-resnet8], QNN: [digits-resnet8-2bit]}
"""
YAML = """
name: {name}
title: {title}
authors: [{author}]
license: MIT
kind: {kind}
substitutes: [digits-vgg]
"""
SIGN = """
import torch
from torch.nn.functional import cross_entropy

def attack(model, x, y, *, eps, steps, rng):
    z = (x + rng.uniform(x.shape[1:], -eps / 2, eps / 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(z), y, reduction="sum"), z)
    return (x + eps * gradient.sign()).clamp(0, 1)
"""
WALLS = Walls("auto", Limits(seconds=20, memory=512 * 2**20))
PART = "images/digits-vgg--s0.safetensors"


def suite(folder: Path) -> Suite:
    """Write and load the tiny suite."""
    path = folder / "tiny.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return load_suite(str(path))


def folder(parent: Path, name: str, code: str | None = SIGN, **words: str) -> Path:
    """Make a submission's folder."""
    place = parent / name
    place.mkdir(parents=True)
    values = {"title": name, "author": "A. Uthor", "kind": "code" if code else "images", **words}
    (place / "submission.yaml").write_text(YAML.format(name=name, **values), encoding="utf-8")
    if code:
        (place / "attack.py").write_text(code, encoding="utf-8")
    return place


def bundle(parent: Path, tiny: Suite, name: str, code: str | None = SIGN, **words: str) -> Path:
    """Make an honest bundle of a submission."""
    path = parent / f"{name}.zip"
    pack(folder(parent / "sources", name, code, **words), tiny, path, walls=WALLS)
    return path


def unpack(path: Path) -> dict[str, bytes]:
    """Return the parts of a bundle, its manifest among them."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(parts: Mapping[str, bytes], path: Path, sign: bool = True, **manifest: Any) -> Path:
    """Write parts as a bundle; with `sign`, the manifest states the digests of what is there, as a liar's would."""
    content = {**json.loads(parts["manifest.json"]), **manifest}
    files = {name: data for name, data in parts.items() if name != "manifest.json"}
    if sign:
        content["parts"] = {n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in files.items()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(content))
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def images(parts: Mapping[str, bytes]) -> tuple[Tensor, list[str]]:
    """Return the images of a bundle and their ids."""
    data = parts[PART]
    length = int.from_bytes(data[:8], "little")
    ids = json.loads(data[8 : 8 + length])["__metadata__"]["ids"]
    return load(data)["images"], ids.split("\n")


def encoded(tensor: Tensor, ids: list[str] | None, key: str = "images") -> bytes:
    """Return a safetensors file of images."""
    data: bytes = save({key: tensor.contiguous()}, None if ids is None else {"ids": "\n".join(ids)})
    return data


def pickled(value: Any, new_format: bool = True) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new_format)
    return buffer.getvalue()


def trace(board: Path) -> dict[str, str]:
    """Return the digests of all files of a board."""
    return {
        str(p.relative_to(board)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(board.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }
