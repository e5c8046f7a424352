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
from harness.submit import disputes
from harness.submit.add import words
from harness.submit.claim import Claim, open_claim
from harness.submit.controls import held_back, judge_controls, plan
from harness.submit.make import Notify, Order, Span, Walls, craft_all, scene_of, substitute_sha256
from harness.submit.measure import ALIKE, Agreement, Judge, agree, judge, likeness
from harness.submit.record import Source, read_folder
from harness.submit.taken import SUBMISSIONS
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.data import Dataset
from zoo.errors import UserError

Verdict = Literal["identical", "same outcomes", "consistent", "different", "no transfer", "disputed", "not verifiable"]
GOOD = ("identical", "same outcomes", "consistent")


@dataclass
class Finding:
    """What was found for one job."""

    job: str
    verdict: Verdict
    detail: str
    agreement: Agreement | None = None


@dataclass
class Verification:
    """What `harness verify` found."""

    target: str
    seed: int
    isolation: str | None
    findings: list[Finding] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    """Per job, whether its code needs its substitute, in figures."""

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the result."""
        return bool(self.findings) and all(f.verdict in GOOD for f in self.findings)


@dataclass(frozen=True)
class Task:
    """How a verification is to go about its work."""

    fraction: float
    seed: int
    walls: Walls
    overlays: tuple[str, ...]
    workers: int
    hidden_seed: str | None
    notify: Notify


def verify(
    path: Path,
    fraction: float,
    *,
    seed: int | None = None,
    walls: Walls | None = None,
    overlays: Sequence[str] = (),
    workers: int = 1,
    suite: Suite | None = None,
    hidden_seed: str | None = None,
    notify: Notify | None = None,
) -> Verification:
    """Craft a random share of a bundle's or a row's blocks anew, score them, try the controls, and say how all that compares.

    A verification of a submitted row is logged on its board, and one that finds it different stays in the row.

    Raises:
        UserError: it is damaged, or was made for models, images or settings that are not here.
    """
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    notify = notify or (lambda what, done, total: None)
    task = Task(fraction, seed, walls or Walls(), tuple(overlays), workers, hidden_seed, notify)
    return _verify_row(path, task) if path.suffix == ".json" else _verify_bundle(path, task, suite)


def sample(workspace: Workspace, fraction: float, seed: int) -> list[Span]:
    """Return a random share of the blocks of a run, at least one."""
    blocks = spans(len(workspace.data), workspace.suite.block)
    count = max(1, math.ceil(fraction * len(blocks)))
    return sorted(random.Random(seed).sample(blocks, count))


def _verify_bundle(path: Path, task: Task, suite: Suite | None) -> Verification:
    claim = open_claim(path, "cpu", task.overlays, suite)
    report = Verification(str(path), task.seed, None)
    hidden = held_back(claim.suite, task.hidden_seed)
    with judge(claim.workspace, None, task.workers, task.notify) as bar:
        made: dict[Job, Tensor] = {}
        blocks = sample(claim.workspace, task.fraction, task.seed)
        if claim.source.files:
            try:
                made = _remade(bar, claim.source, list(claim.jobs), blocks, task, hidden, report)
            except SubmissionError as error:
                report.findings.append(Finding(claim.source.submission.name, "different", f"its code fails: {error}"))
                return report
        for job in claim.jobs:
            report.findings.append(_bundle_finding(claim, job, made.get(job), blocks, bar))
    return report


def _remade(
    bar: Judge, source: Source, jobs: list[Job], blocks: list[Span], task: Task, hidden: Dataset | None, report: Verification
) -> dict[Job, Tensor]:
    """Craft blocks of jobs with submitted code, and its controls; what speaks against it goes into the report."""
    whole = [Order(job, tuple(blocks), scene_of(bar.workspace)) for job in jobs]
    trials = [plan(bar, job, blocks, (task.seed + n) % 2**31, hidden) for n, job in enumerate(jobs)]
    orders = [*whole, *(order for trial in trials for order in trial.orders)]
    images, report.isolation = craft_all(bar.workspace, source, orders, task.walls, task.workers, task.notify)
    made = {order.job: found.images for order, found in zip(whole, images, strict=False)}
    rest, index = [m.images for m in images[len(whole) :]], _index(blocks)
    for trial in trials:
        mine, rest = rest[: len(trial.orders)], rest[len(trial.orders) :]
        places = [index.index(i) for i in trial.index.tolist()]
        controls, problem = judge_controls(bar, trial, made[trial.job][places], mine)
        name = _name(trial.job)
        report.controls.append(f"{name}: {words(controls)}")
        if problem:
            report.findings.append(Finding(name, "no transfer", problem))
    return made


def _bundle_finding(claim: Claim, job: Job, made: Tensor | None, blocks: list[Span], bar: Judge) -> Finding:
    name, index = _name(job), _index(blocks)
    sent = claim.images(job)
    if made is None:
        return Finding(name, "not verifiable", "it holds images without code, which nobody can make again")
    if sent is None:
        return Finding(name, "consistent", f"it holds no images to compare; its code makes {len(index)} within the budget")
    differing = int((made != sent.images[index]).flatten(1).any(1).sum())
    if differing == 0:
        return Finding(name, "identical", f"all {len(index)} sampled images are the same bytes")
    alike = likeness(made, sent.images[index], bar.workspace.data.images[index])
    if alike < ALIKE:
        return Finding(name, "different", f"{differing} of {len(index)} sampled images differ (median cosine {alike:.2f})")
    found = agree(bar.predict(sent.images[index]), bar.predict(made), bar.clean.labels.array[index])
    return _judged(name, found, f"{differing} of {len(index)} sampled images differ")


def _verify_row(path: Path, task: Task) -> Verification:
    row, folder = read_row(path), path.resolve().parent.parent
    state = disputes.digest(path)
    pinned = PinnedSuite.read(folder)
    workspace = open_workspace(pinned.suite, row.limit, "cpu", task.overlays)
    report = Verification(str(path), task.seed, None)
    job = Job(row.substitute, row.attack, row.seed)
    if substitute_sha256(workspace, row.substitute) != row.substitute_sha256:
        raise UserError(f"{path}: made on other weights of {row.substitute!r} than those here; pull them first")
    blocks = sample(workspace, task.fraction, task.seed)
    if row.submission is not None and row.submission.source_sha256 is None:
        report.findings.append(Finding(_name(job), "not verifiable", "only images were submitted; verify the bundle"))
        return report
    with judge(workspace, folder.parent.parent, task.workers, task.notify) as bar:
        if bar.pinned.digest != row.suite_digest:
            raise UserError(f"{path}: made for other targets or images (suite digest {row.suite_digest[:12]})")
        try:
            images = _recrafted(row, folder, bar, blocks, task, report)
            report.findings.append(_row_finding(row, images, _index(blocks), bar))
        except SubmissionError as error:
            report.findings.append(Finding(_name(job), "different", f"its code fails: {error}"))
    if row.submission is not None:
        _log(path, state, report, len(_index(blocks)))
        if earlier := [d for d in disputes.standing(row) if d.seed != task.seed]:
            detail = f"{len(earlier)} verification(s) found other outcomes (seed {earlier[0].seed}), and nobody has cleared that"
            report.findings.append(Finding(_name(job), "disputed", detail))
    return report


def _log(path: Path, state: str, report: Verification, images: int) -> None:
    """Log a verification by its worst finding."""
    worst = next((f for f in report.findings if f.verdict not in GOOD), report.findings[-1])
    found = worst.agreement
    draw = disputes.Draw(
        row=path.name,
        sha256=state,
        seed=report.seed,
        images=images,
        differing=found.differing if found else 0,
        predictions=found.predictions if found else 0,
        verdict=worst.verdict,
        created=disputes.now(),
    )
    disputes.log(path, draw)


def _row_finding(row: Row, images: Tensor, index: list[int], bar: Judge) -> Finding:
    name = _name(Job(row.substitute, row.attack, row.seed))
    said = {target: outcome.adv.array[index] for target, outcome in row.outcomes.items()}
    found = agree(said, bar.predict(images), bar.clean.labels.array[index])
    if len(index) == len(bar.workspace.data) and digest(images) == row.images_sha256 and found.identical:
        return Finding(name, "identical", f"all {len(index)} images are the same bytes, all outcomes as stated", found)
    return _judged(name, found, f"{len(index)} images crafted anew")


def _recrafted(row: Row, folder: Path, bar: Judge, blocks: list[Span], task: Task, report: Verification) -> Tensor:
    """Return the images of a row's blocks, made by the harness's own attack or by the stored code of a submission."""
    workspace, job = bar.workspace, Job(row.substitute, row.attack, row.seed)
    if row.submission is None:
        if repr(workspace.attack(row.attack)) != row.composition:
            raise UserError(f"{row.filename}: made by another composition of {row.attack!r} than this version's")
        made = make_blocks(workspace.context, job, workspace.craft_key(job.substitute, job.attack, job.seed), tuple(blocks))
        return torch.cat([torch.from_numpy(np.array(part.images)) for part in made])
    source = read_folder(folder / SUBMISSIONS / row.attack)
    if source.sha256 != row.submission.source_sha256 or source.composition != row.composition:
        raise UserError(f"{folder / SUBMISSIONS / row.attack}: not the code that the row was made by; restore it")
    return _remade(bar, source, [job], blocks, task, held_back(workspace.suite, task.hidden_seed), report)[job]


def _judged(name: str, found: Agreement, what: str) -> Finding:
    if found.identical:
        return Finding(name, "same outcomes", f"{what}; all {found.predictions} predictions as stated", found)
    return Finding(name, "consistent" if found.consistent else "different", f"{what}; {found.why}", found)


def _name(job: Job) -> str:
    return f"{job.substitute} seed {job.seed}"


def _index(blocks: list[Span]) -> list[int]:
    return [i for start, stop in blocks for i in range(start, stop)]
