"""A whole suite from its command to its board, against the bare passes that it consists of."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.board import load as load_board
from harness.board import write_files
from harness.runs.bench import bare
from harness.runs.runner import run
from harness.runs.unfinished import Request
from harness.runs.workspace import open_workspace
from harness.suites.suite import Suite

ROUNDS = 5
"""Times that the bare passes of each model are timed."""


@dataclass(frozen=True)
class EndToEnd:
    """A run in one process."""

    images: int
    rows: int
    targets: int
    seconds: float
    """Time of loading, crafting, scoring, checking, writing rows and the board; of the process's thread on a CPU."""
    bare: float
    """Time of as many plain passes of the same networks: the attacks' passes, and each target's answers to each row."""

    @property
    def ratio(self) -> float:
        """Time over that of the bare passes."""
        return self.seconds / self.bare


def end_to_end(suite: Suite, limit: int | None, device: str, overlays: tuple[str, ...]) -> EndToEnd:
    """Run a suite into a folder that is removed, with nothing in the cache, and time it and its bare passes.

    Raises:
        UserError: a model is not here, or an attack declares no cost.
    """
    workspace = open_workspace(suite, limit, device, overlays)
    count = len(workspace.data)
    x = workspace.data.images[: suite.block].to(device).float() / 255
    passes = {name: bare(workspace.target(name), x, ROUNDS) for name in suite.model_names}
    expected = 0.0
    jobs = [(spec, attack) for spec in suite.substitutes for attack in suite.attack_names]
    for spec, attack in jobs:
        cost = workspace.attack(attack).cost(suite.steps)
        for model in spec.models:
            forward, backward = passes[model]
            expected += count * len(suite.seeds) * ((cost.forwards * forward + cost.backwards * backward) if cost else 0.0)
    answers = sum(passes[name][0] for name in suite.target_names)
    expected += count * answers * (len(jobs) * len(suite.seeds) + 1)
    with tempfile.TemporaryDirectory() as folder, _cache(Path(folder) / "cache"):
        began = _clock(device)
        report = run(suite, Request(suite=suite.name, limit=limit, device=device, workers=1, overlays=overlays), Path(folder))
        write_files(load_board(report.folder), report.folder)
        seconds = _clock(device) - began
    return EndToEnd(count, len(report.written), len(suite.target_names), seconds, expected)


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("ZOO_CACHE")
    os.environ["ZOO_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["ZOO_CACHE"]
        else:
            os.environ["ZOO_CACHE"] = before


def _clock(device: str) -> float:
    if torch.device(device).type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
