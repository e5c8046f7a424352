"""Recipe kind `export`: another entry's network, written to the file that an engine runs."""

from __future__ import annotations

import hashlib
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo.engines.export_onnx import export_onnx
from zoo.errors import UserError
from zoo.hub.cache import sha256_of
from zoo.loading.load import weights_path
from zoo.recipes.report import BuildReport, finished, write_log
from zoo.registry.entry import ModelEntry

_WRITERS = ("torch", "onnx", "onnxscript")
"""Packages whose versions decide the bytes."""


def start_of(entry: ModelEntry) -> str:
    """Return the name of the entry that an export is made of, after checking that the two can go together.

    Raises:
        UserError: the recipe names none, has settings of a training, or the entry runs in another engine.
    """
    recipe, where = entry.recipe, f"{entry.name}: recipe"
    assert recipe is not None
    if recipe.start is None:
        raise UserError(f"{where}.start: missing; kind 'export' writes the network of another entry")
    if entry.engine is None or entry.engine.name != "onnxruntime":
        raise UserError(f"{where}.kind: 'export' writes ONNX files; give the entry engine: {{name: onnxruntime}}")
    given = {key for key in recipe.model_fields_set - {"kind", "start", "cost"} if key != "options" or recipe.options}
    if given:
        raise UserError(f"{where}.{sorted(given)[0]}: an export trains nothing; remove it")
    return recipe.start


def export(
    entry: ModelEntry, start: ModelEntry, out: Path, path: Path | None = None, *, keep: bool = False
) -> BuildReport:
    """Write the network of `start` to the file of `entry`, whole or not at all, with a log beside it.

    Args:
        entry: What is made; its input must be pixels, as the file normalises by itself.
        start: A quantised entry, fake-quantised in torch.
        out: The file to write.
        path: Weights of `start`, where they are not the registry's.
        keep: Leave the file as it is when the same weights, written by the same versions, gave it.

    Raises:
        UserError: the start has no weights, or the entry states another input than the file takes.
    """
    check_input(entry, start)
    began = time.perf_counter()
    log: dict[str, Any] = {
        "kind": "export",
        "start": start.name,
        "start_sha256": sha256_of(path or weights_path(start)),
        "test_top1": {},
    }
    log["versions"] = {name: metadata.version(name) for name in _WRITERS}
    key = hashlib.sha256(
        json.dumps([entry.name, log, start.input.model_dump(mode="json")], sort_keys=True).encode()
    ).hexdigest()
    found = finished(entry, out, key) if keep else None
    if found is not None:
        return found
    made = export_onnx(start, out, path)
    log["notes"] = list(made.notes)
    report = BuildReport(entry.name, out, made.sha256, made.size, None, {}, round(time.perf_counter() - began, 1), log)
    write_log(report, key=key, device="cpu", processes=1)
    return report


def check_input(entry: ModelEntry, start: ModelEntry) -> None:
    """Refuse an entry that normalises what its file normalises again, or prepares images otherwise than its start does."""
    plain = {"mean": (0.0,) * start.input.channels, "std": (1.0,) * start.input.channels}
    wanted = start.input.model_copy(update=plain)
    if entry.input == wanted and not entry.label_offset:
        return
    stated = wanted.model_dump(mode="json", exclude_defaults=True)
    fields = ", ".join(f"{key}: {value}" for key, value in stated.items())
    raise UserError(
        f"{entry.name}: the exported file takes pixels, as {start.name} does before it normalises, and drops no class; state "
        f"input: {{{fields}}}" + (" and label_offset: 0" if entry.label_offset else "")
    )
