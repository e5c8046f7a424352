"""What was timed before on this machine: a file of JSON lines, the last one of the same hardware to compare with."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.records.provenance import provenance
from harness.runs.bench import Speed
from harness.runs.workspace import Workspace
from harness.storage.files import atomic_write
from zoo.errors import UserError
from zoo.hub.store import cache_root
from zoo.kernels import hardware

KEPT = 200
"""Entries of the file; the oldest go first."""


def history_file() -> Path:
    """Return where timings are kept unless another file is named."""
    return cache_root() / "bench.jsonl"


def entry(workspace: Workspace, found: Sequence[Speed]) -> dict[str, Any]:
    """Return what is kept of one run of the bench."""
    made = provenance(hardware(workspace.context.device), workspace.context.how)
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": made.hardware,
        "precision": made.precision,
        "threads": torch.get_num_threads(),
        "torch": made.torch,
        "commit": made.commit,
        "suite": f"{workspace.suite.name} v{workspace.suite.version}",
        "speeds": [speed.to_json() for speed in found],
    }


def entries(path: Path) -> list[dict[str, Any]]:
    """Return all entries of a file, the oldest first; none when there is no file.

    Raises:
        UserError: a line is damaged.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(dict(json.loads(line)))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no record of a bench ({error}); remove the line") from error
    return found


def last(path: Path, like: dict[str, Any]) -> dict[str, Any] | None:
    """Return the newest entry of the same suite, hardware and precision."""
    same = [old for old in entries(path) if all(old.get(key) == like[key] for key in ("suite", "hardware", "precision"))]
    return same[-1] if same else None


def last_like(path: Path, workspace: Workspace) -> dict[str, Any] | None:
    """Return the newest entry of a workspace's suite on its hardware, in its precision."""
    return last(path, entry(workspace, ()))


def append(path: Path, new: dict[str, Any]) -> None:
    """Add an entry to the file."""
    lines = [json.dumps(each, sort_keys=True) for each in [*entries(path), new][-KEPT:]]
    atomic_write(path, "\n".join(lines) + "\n")


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what both timed: the ratios then and now, and whether their spreads lie apart."""
    before = {speed["name"]: speed for speed in old["speeds"]}
    rows = []
    for now in new["speeds"]:
        then = before.get(now["name"])
        if then is None:
            continue
        apart = "slower" if now["low"] > then["high"] else "faster" if now["high"] < then["low"] else "-"
        figures = {"then": then["ratio"], "now": now["ratio"], "change": now["ratio"] / then["ratio"] - 1}
        rows.append({"name": now["name"], **figures, "verdict": apart})
    return rows
