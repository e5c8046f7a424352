"""A submission's folder to a bundle: crafted behind the walls or read from images; scored to tell its maker alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from harness.records.rows import Submitted
from harness.runs.workspace import Workspace, open_workspace
from harness.submit.bundle import IMAGES, SOURCE, JobRecord, Manifest, part, write
from harness.submit.images import KEY, MAX_HEADER, check_attacked, check_ball, read_part, read_pngs
from harness.submit.make import (
    CraftedImages,
    Notify,
    Walls,
    all_blocks,
    craft_all,
    inputs_of,
    jobs_of,
    substitute_sha256,
)
from harness.submit.measure import judge, rates
from harness.submit.naming import refuse_taken, reserved
from harness.submit.record import FILE, MAX_YAML, Source, read_folder, read_plain, read_text, refuse_link
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.errors import UserError


@dataclass(frozen=True)
class Packed:
    """What `submit run` made."""

    path: Path
    isolation: str | None
    results: dict[str, str]
    """Substitute (and seed) -> its rates, in words."""


def pack(
    folder: Path,
    suite: Suite,
    path: Path,
    *,
    limit: int | None = None,
    walls: Walls | None = None,
    device: str = "cpu",
    overlays: Sequence[str] = (),
    workers: int = 1,
    scored: bool = True,
    with_images: bool = True,
    notify: Notify | None = None,
) -> Packed:
    """Make the bundle of a submission on a suite.

    Args:
        folder: the submission.
        suite: the suite.
        path: the zip file, or the folder, to write.
        limit: only so many first images.
        walls: how its code is walled in.
        device: where the targets run.
        overlays: further files of the registry.
        workers: sandboxes and processes at a time.
        scored: whether to score the images on the targets that are here, to see how it does.
        with_images: whether a bundle of code brings the images, too, for its maker's and our bytes to be compared.
        notify: called with the progress.

    Raises:
        UserError: the submission, its code or its images are not what they must be.
    """
    notify = notify or (lambda what, done, total: None)
    source = read_folder(folder)
    refuse_taken(source.submission.name, reserved(), "an attack or model of the harness")
    workspace = open_workspace(suite, limit, device, overlays)
    jobs = jobs_of(source, suite)
    isolation = None
    if source.files:
        found, isolation = craft_all(workspace, source, all_blocks(workspace, jobs), walls or Walls(), workers, notify)
        made = dict(zip(jobs, found, strict=True))
    else:
        made = {job: read_images(folder, workspace, job) for job in jobs}
    records = {job: _record(workspace, job) for job in jobs}
    yaml = read_text(folder / FILE, MAX_YAML)
    parts = {f"{SOURCE}/{name}": text.encode() for name, text in {FILE: yaml, **source.files}.items()}
    if with_images or not source.files:
        parts |= {records[job].images: encode(made[job].images, workspace) for job in jobs}
    results = _scores(workspace, source, made, isolation, workers, notify) if scored else {}
    manifest = Manifest(
        format=2,
        submission=source.submission.name,
        suite=suite.name,
        suite_version=suite.version,
        inputs_sha256=inputs_of(workspace),
        limit=workspace.context.limit,
        jobs=tuple(records.values()),
        parts={name: part(data) for name, data in parts.items()},
    )
    write(path, manifest, parts)
    return Packed(path, isolation, results)


def encode(images: Tensor, workspace: Workspace) -> bytes:
    """Return the safetensors file of uint8 images, with the ids that tell their order."""
    data: bytes = save({KEY: images.contiguous()}, {"ids": "\n".join(workspace.data.ids), "suite": workspace.suite.name})
    return data


def read_images(folder: Path, workspace: Workspace, job: Job) -> CraftedImages:
    """Return the images that a folder holds for a job: images/SUBSTITUTE--sSEED.safetensors, or a folder of PNG files.

    Raises:
        UserError: they are missing, or break a rule of the suite.
    """
    data = workspace.data
    base = folder / IMAGES / f"{job.substitute}--s{job.seed}"
    file = base.with_name(base.name + ".safetensors")
    refuse_link(folder / IMAGES)
    if file.is_file() or file.is_symlink():
        images = read_part(read_plain(file, 8 + MAX_HEADER + data.images.numel()), data.images, data.ids, str(file))
        where = str(file)
    elif base.is_dir() or base.is_symlink():
        refuse_link(base)
        images, where = read_pngs(base, data.images, data.ids), str(base)
    else:
        raise UserError(f"{file} is missing, and so is the folder {base}; or list the substitutes that you have in {FILE}")
    check_ball(images, data.images, workspace.suite.budget.levels, data.ids, where)
    check_attacked(images, data.images, where)
    return CraftedImages(images, 0, 0, 0.0)


def _record(workspace: Workspace, job: Job) -> JobRecord:
    return JobRecord(substitute=job.substitute, substitute_sha256=substitute_sha256(workspace, job.substitute), seed=job.seed)


def _scores(
    workspace: Workspace, source: Source, made: dict[Job, CraftedImages], isolation: str | None, workers: int, notify: Notify
) -> dict[str, str]:
    """Score the images with the targets that are at hand, and say the rates; they go into no bundle."""
    submission = source.submission
    submitted = Submitted(
        authors=submission.authors,
        paper=submission.paper,
        license=submission.license,
        source_sha256=source.sha256,
        bundle_sha256="0" * 64,  # there is none yet, and this row is written nowhere
        isolation=isolation,
    )
    results = {}
    with judge(workspace, None, workers, notify) as bar:
        for done, (job, images) in enumerate(made.items(), 1):
            row = bar.row(job, source, images, "rescored", submitted, workspace.context.device)
            results[job.substitute + (f" seed {job.seed}" if job.seed else "")] = rates(row, bar.clean.labels.array)
            notify("scoring", done, len(made))
    return results
