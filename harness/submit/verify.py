"""Making a part of a result again: from the stored code, behind the walls, held against bytes and then against rates."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from harness.records.pinned import PinnedSuite
from harness.records.rows import Row, read_row
from harness.runs.craft import make_blocks, spans
from harness.runs.workspace import Workspace, open_workspace
from harness.sandbox import SubmissionError
from harness.storage.shards import digest
from harness.submit.add import SUBMISSIONS
from harness.submit.claim import Claim, open_claim
from harness.submit.make import Made, Notify, Span, Walls, craft_all, substitute_sha256
from harness.submit.measure import ALIKE, Agreement, Judge, agree, judge, likeness
from harness.submit.record import read_folder
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.errors import UserError

Verdict = Literal["identical", "same outcomes", "consistent", "different", "not verifiable"]


@dataclass
class Finding:
    """What was found for one job."""

    job: str
    verdict: Verdict
    detail: str


@dataclass
class Verification:
    """What `harness verify` found."""

    target: str
    seed: int
    isolation: str | None
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the result."""
        return bool(self.findings) and all(f.verdict not in ("different", "not verifiable") for f in self.findings)


def verify(
    path: Path,
    fraction: float,
    *,
    seed: int | None = None,
    walls: Walls | None = None,
    overlays: Sequence[str] = (),
    workers: int = 1,
    suite: Suite | None = None,
    notify: Notify | None = None,
) -> Verification:
    """Craft a random share of a bundle's or a row's blocks anew, score them, and say how they compare.

    Raises:
        UserError: it is damaged, or was made for models, images or settings that are not here.
    """
    notify = notify or (lambda what, done, total: None)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    if path.suffix == ".json":
        return _verify_row(path, fraction, seed, walls or Walls(), overlays, workers, notify)
    return _verify_bundle(path, fraction, seed, walls or Walls(), overlays, workers, suite, notify)


def sample(workspace: Workspace, fraction: float, seed: int) -> list[Span]:
    """Return a random share of the blocks of a run, at least one."""
    blocks = spans(len(workspace.data), workspace.suite.block)
    count = max(1, math.ceil(fraction * len(blocks)))
    return sorted(random.Random(seed).sample(blocks, count))


def _verify_bundle(
    path: Path,
    fraction: float,
    seed: int,
    walls: Walls,
    overlays: Sequence[str],
    workers: int,
    suite: Suite | None,
    notify: Notify,
) -> Verification:
    claim = open_claim(path, "cpu", overlays, suite)
    report = Verification(str(path), seed, None)
    with judge(claim.workspace, None, workers, notify) as bar:
        made: dict[Job, Made] = {}
        blocks = sample(claim.workspace, fraction, seed)
        if claim.source.files:
            try:
                jobs = [(job, blocks) for job in claim.jobs]
                made, report.isolation = craft_all(claim.workspace, claim.source, jobs, walls, workers, notify)
            except SubmissionError as error:
                report.findings.append(Finding(claim.source.submission.name, "different", f"its code fails: {error}"))
                return report
        for job in claim.jobs:
            report.findings.append(_bundle_finding(claim, job, made.get(job), blocks, bar))
    return report


def _bundle_finding(claim: Claim, job: Job, made: Made | None, blocks: list[Span], bar: Judge) -> Finding:
    name, index = f"{job.substitute} seed {job.seed}", _index(blocks)
    sent, row = claim.images(job), claim.row(job, bar.pinned.digest)
    if sent is None and row is None:
        return Finding(name, "not verifiable", "it holds neither images nor outcomes")
    if made is not None and sent is not None:
        differing = int((made.images != sent.images[index]).flatten(1).any(1).sum())
        if differing == 0 and row is None:
            return Finding(name, "identical", f"all {len(index)} sampled images are the same bytes")
        alike = likeness(made.images, sent.images[index], bar.workspace.data.images[index])
        if alike < ALIKE:
            return Finding(name, "different", f"{differing} of {len(index)} sampled images differ (median cosine {alike:.2f})")
        if differing:
            found = agree(bar.predict(sent.images[index]), bar.predict(made.images), bar.clean.labels.array[index])
            return _judged(name, found, f"{differing} of {len(index)} sampled images differ")
        assert row is not None
        found = agree(_said(row, index), bar.predict(made.images), bar.clean.labels.array[index])
        if found.identical:
            return Finding(name, "identical", f"all {len(index)} sampled images are the same bytes, all outcomes as claimed")
        return _judged(name, found, f"all {len(index)} sampled images are the same bytes")
    images = made.images if made is not None else sent.images[index] if sent is not None else None
    if images is None or row is None:
        return Finding(name, "not verifiable", "there is nothing to compare: no code, or neither images nor outcomes")
    return _judged(name, agree(_said(row, index), bar.predict(images), bar.clean.labels.array[index]), f"{len(index)} images")


def _verify_row(
    path: Path, fraction: float, seed: int, walls: Walls, overlays: Sequence[str], workers: int, notify: Notify
) -> Verification:
    row, folder = read_row(path), path.resolve().parent.parent
    pinned = PinnedSuite.read(folder)
    workspace = open_workspace(pinned.suite, row.limit, "cpu", overlays)
    report = Verification(str(path), seed, None)
    name = f"{row.substitute} seed {row.seed}"
    if substitute_sha256(workspace, row.substitute) != row.substitute_sha256:
        raise UserError(f"{path}: made on other weights of {row.substitute!r} than those here; pull them first")
    blocks = sample(workspace, fraction, seed)
    index = _index(blocks)
    if row.submission is not None and row.submission.source_sha256 is None:
        report.findings.append(Finding(name, "not verifiable", "only images were submitted; verify the bundle"))
        return report
    with judge(workspace, folder.parent.parent, workers, notify) as bar:
        if bar.pinned.digest != row.suite_digest:
            raise UserError(f"{path}: made for other targets or images (suite digest {row.suite_digest[:12]})")
        try:
            images, report.isolation = _recrafted(row, folder, workspace, blocks, walls, notify)
        except SubmissionError as error:
            report.findings.append(Finding(name, "different", f"its code fails: {error}"))
            return report
        report.findings.append(_row_finding(name, row, images, index, bar))
    return report


def _row_finding(name: str, row: Row, images: Tensor, index: list[int], bar: Judge) -> Finding:
    found = agree(_said(row, index), bar.predict(images), bar.clean.labels.array[index])
    if len(index) == len(bar.workspace.data) and digest(images) == row.images_sha256 and found.identical:
        return Finding(name, "identical", f"all {len(index)} images are the same bytes, all outcomes as stated")
    return _judged(name, found, f"{len(index)} images crafted anew")


def _recrafted(
    row: Row, folder: Path, workspace: Workspace, blocks: list[Span], walls: Walls, notify: Notify
) -> tuple[Tensor, str | None]:
    """Return the images of a row's blocks, made by the harness's own attack or by the stored code of a submission."""
    job = Job(row.substitute, row.attack, row.seed)
    if row.submission is None:
        if repr(workspace.attack(row.attack)) != row.composition:
            raise UserError(f"{row.filename}: made by another composition of {row.attack!r} than this version's")
        made = make_blocks(workspace.context, job, workspace.craft_key(*_parts(job)), tuple(blocks))
        return torch.cat([torch.from_numpy(np.array(part.images)) for part in made]), None
    source = read_folder(folder / SUBMISSIONS / row.attack)
    if source.sha256 != row.submission.source_sha256 or source.composition != row.composition:
        raise UserError(f"{folder / SUBMISSIONS / row.attack}: not the code that the row was made by; restore it")
    result, isolation = craft_all(workspace, source, [(job, blocks)], walls, 1, notify)
    return result[job].images, isolation


def _parts(job: Job) -> tuple[str, str, int]:
    return job.substitute, job.attack, job.seed


def _said(row: Row, index: list[int]) -> dict[str, np.ndarray]:
    return {target: outcome.adv.array[index] for target, outcome in row.outcomes.items()}


def _judged(name: str, found: Agreement, what: str) -> Finding:
    if found.identical:
        return Finding(name, "same outcomes", f"{what}; all {found.predictions} predictions as stated")
    share = f"{found.differing} of {found.predictions} predictions differ"
    if found.consistent:
        return Finding(name, "consistent", f"{what}; {share}, no more than chance allows (p = {found.p:.2g})")
    return Finding(name, "different", f"{what}; {share}, beyond chance (p = {found.p:.2g}; {found.worst})")


def _index(blocks: list[Span]) -> list[int]:
    return [i for start, stop in blocks for i in range(start, stop)]
