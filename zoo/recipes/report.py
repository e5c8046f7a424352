"""What a build made, as it is reported and as the log beside its file records it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.data import Dataset, Training
from zoo.errors import UserError
from zoo.hub.cache import read_json
from zoo.hub.store import recorded, verified
from zoo.hub.whole import write_whole
from zoo.registry.entry import ModelEntry


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    accuracies: top-1 in percent on the test images by state of the network ("fp" when it is not quantised); `top1` is that
    of the state it is evaluated in, null where none was measured, as of an export. log: what was done, as stored in the file's
    metadata; `seconds` is kept out of it so that building again gives the same bytes. kept: whether the file was there already,
    made by the same recipe from the same images and weights.
    """

    name: str
    path: Path
    sha256: str
    size: int
    top1: float | None
    accuracies: dict[str, float]
    seconds: float
    log: dict[str, Any]
    kept: bool = False


def training_key(entry: ModelEntry, data: Training, models: Iterable[nn.Module]) -> str:
    """Digest everything that decides a training: the entry, the images, and every weight that it reads."""
    fields = {"arch", "arch_args", "classes", "label_offset", "input", "quant", "recipe"}
    content = entry.model_dump(mode="json", include=fields)
    content["recipe"].pop("cost")
    sha = hashlib.sha256(json.dumps([content, data.digest, torch.__version__], sort_keys=True).encode())
    for model in models:
        for key, value in model.state_dict().items():
            sha.update(key.encode())
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def file_key(entry: ModelEntry, training: str, data_test: Dataset) -> str:
    """Digest everything that decides a file: the training, how its weights are stored, and the accuracies it names."""
    alternation = entry.alternation.model_dump(mode="json") if entry.alternation else None
    content = [training, entry.name, alternation, data_test.digest]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_log(report: BuildReport, **about: Any) -> None:
    """Write the log beside a file that was built, with what tells the file's bytes and how it came about."""
    out = report.path
    content = {"seconds": report.seconds, "sha256": report.sha256, "size": report.size, **about, **report.log}
    write_whole(out.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())


def finished(entry: ModelEntry, out: Path, key: str) -> BuildReport | None:
    """Return the report of a file that a build with the same key finished and nobody altered, or None."""
    content = read_json(out.with_suffix(".json"))
    if content.get("key") != key or not out.is_file():
        return None
    try:
        verified(out)
    except UserError:
        return None
    accuracies, sha256 = content["test_top1"], recorded(out)
    assert sha256 is not None
    log = {k: v for k, v in content.items() if k not in ("seconds", "sha256", "size", "key", "device", "processes")}
    size, top1 = out.stat().st_size, in_use(accuracies) if accuracies else None
    return BuildReport(entry.name, out, sha256, size, top1, accuracies, content["seconds"], log, kept=True)


def in_use(accuracies: dict[str, float]) -> float:
    """Return the accuracy of the state that a network is evaluated in."""
    return accuracies["wa" if "wa" in accuracies else "fp"]
