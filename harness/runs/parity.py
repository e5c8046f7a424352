"""What a faster precision costs in agreement: a sample of each job is made again exactly, and its predictions compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from harness.records.rows import Outcome
from harness.runs.craft import craft_job
from harness.runs.score import score_images
from harness.runs.stage import Stage
from harness.runs.workspace import workspace_of
from harness.storage.files import atomic_write, read_record
from harness.suites.selection import Job
from zoo.intervals import wilson
from zoo.registry.entry import Record

PARITY = "parity.json"


class JobParity(Record):
    """One job, on its first block of images."""

    images: int = Field(ge=1)
    targets: int = Field(ge=1)
    predictions_differ: float = Field(ge=0, le=1)
    """Share of all (image, target) predictions that differ from the exact ones."""
    images_differ: float = Field(ge=0, le=1)
    """Share of images that at least one target takes for another class."""
    interval: tuple[float, float]
    """Wilson's 95 % interval of `images_differ`."""
    rate_moves: float
    """Error rate over all targets, less the exact one."""


class Parity(Record):
    """The jobs of a folder, by the names of their rows."""

    precision: str
    jobs: dict[str, JobParity]


def compare_with_exact(stage: Stage, job: Job, outcomes: Mapping[str, Outcome]) -> JobParity:
    """Make the first block of a job exactly, have the same targets predict it, and note in parity.json what differs."""
    context = stage.context
    workspace = workspace_of(context)
    count = min(workspace.suite.block, len(workspace.data))
    labels = workspace.data.labels[:count].numpy()
    exact = replace(stage, context=replace(context, precision="exact", compiled=False, limit=count))
    title = f"exact sample of {job.substitute} x {job.attack}"
    crafted = craft_job(exact, title, job)
    found, _ = score_images(exact, title, job, crafted.images, list(outcomes))
    fast = np.stack([outcomes[target].adv.array[:count] for target in found])
    slow = np.stack([found[target].array for target in found])
    differ = fast != slow
    images = int(differ.any(0).sum())
    made = JobParity(
        images=count,
        targets=len(found),
        predictions_differ=float(differ.mean()),
        images_differ=images / count,
        interval=wilson(images, count),
        rate_moves=float((fast != labels).mean() - (slow != labels).mean()),
    )
    path = stage.report.folder / PARITY
    known = read_parity(path).jobs if path.is_file() else {}
    jobs = {**known, f"{job.substitute}--{job.attack}--s{job.seed}": made}
    atomic_write(path, Parity(precision=context.how or "exact", jobs=jobs).model_dump_json(indent=1) + "\n")
    return made


def read_parity(path: Path) -> Parity:
    """Read a report.

    Raises:
        UserError: it is damaged.
    """
    return read_record(path, Parity, "remove it and run again")
