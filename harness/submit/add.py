"""A bundle onto the board: everything is checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.board import load as load_board
from harness.board import write_files
from harness.records import chain
from harness.records.provenance import provenance
from harness.records.rows import Evidence, Row, read_rows, write_clean, write_row
from harness.runs.ownership import own_folder
from harness.runs.runner import suite_folder
from harness.storage.files import atomic_write, remove
from harness.storage.lock import exclusive
from harness.submit.claim import Claim, open_claim
from harness.submit.make import Made, Notify, Walls, all_blocks, craft_all
from harness.submit.measure import ALIKE, Judge, agree, check_claim, judge, likeness
from harness.submit.naming import refuse_taken, reserved
from harness.submit.record import FILE
from harness.suites.selection import Job
from harness.suites.suite import Suite
from harness.suites.versions import begin
from zoo.errors import UserError

SUBMISSIONS = "submissions"
TIERS: tuple[Evidence, ...] = ("claimed", "rescored", "regenerated")


@dataclass
class Added:
    """What `submit add` did."""

    folder: Path
    evidence: Evidence
    written: list[Path] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    isolation: str | None = None
    remarks: list[str] = field(default_factory=list)


def add(
    path: Path,
    out: Path,
    *,
    evidence: Evidence | None = None,
    walls: Walls | None = None,
    device: str = "cpu",
    overlays: Sequence[str] = (),
    workers: int = 1,
    suite: Suite | None = None,
    notify: Notify | None = None,
) -> Added:
    """Check a bundle and write its rows; the tier of evidence is the best that it allows, unless one is asked for.

    Raises:
        UserError: something is wrong with it. Nothing was written then.
    """
    notify = notify or (lambda what, done, total: None)
    claim = open_claim(path, device, overlays, suite)
    folder = suite_folder(out, claim.suite, claim.workspace.context.limit)
    evidence = evidence or best_evidence(claim)
    known = list(read_rows(folder)) if (folder / "suite.yaml").is_file() else []
    check_name(claim, known, folder)
    with judge(claim.workspace, out, workers, notify) as bar:
        rows, isolation, remarks = _rows(claim, evidence, bar, walls or Walls(), workers)
        for row in rows:
            check_new(row, known)
        added = Added(folder, evidence, isolation=isolation, remarks=remarks)
        _write(claim, bar, rows, added)
    return added


def best_evidence(claim: Claim) -> Evidence:
    """Return the best tier that a bundle's parts allow."""
    if claim.source.files:
        return "regenerated"
    return "rescored" if any(record.images in claim.bundle.manifest.parts for record in claim.jobs.values()) else "claimed"


def check_name(claim: Claim, known: Sequence[Row], folder: Path) -> None:
    """Refuse a name that is taken, looks like one that is, or is this submission's under other content.

    Raises:
        UserError: so it is.
    """
    name = claim.source.submission.name
    refuse_taken(name, reserved(), "an attack or model of the harness")
    others = sorted({row.attack for row in known} - {name})
    refuse_taken(name, others, "an attack on this board")
    stored = folder / SUBMISSIONS / name / FILE
    same = [row for row in known if row.attack == name]
    if same and same[0].submission is None:
        raise UserError(f"the name {name!r} is taken by an attack on this board; choose another")
    content = {row.composition for row in same} - {claim.source.composition}
    if content or (stored.is_file() and stored.read_bytes() != claim.bundle.read(f"source/{FILE}")):
        raise UserError(f"{name!r} is on this board with other code, settings or authors; an id is never reused: choose another")


def check_new(row: Row, known: Sequence[Row]) -> None:
    """Refuse images or code that are on the board under another name, and rows that are there with as good evidence.

    Raises:
        UserError: so it is.
    """
    for other in known:
        if other.attack != row.attack:
            if other.images_sha256 == row.images_sha256:
                raise UserError(f"{row.attack} on {row.substitute}: these are the images of {other.attack!r}, byte for byte")
            theirs = other.submission.source_sha256 if other.submission else None
            ours = row.submission.source_sha256 if row.submission else None
            if ours is not None and ours == theirs:
                raise UserError(f"{row.attack}: this is the code of {other.attack!r}, byte for byte")
            continue
        same = (other.substitute, other.seed) == (row.substitute, row.seed)
        if same and TIERS.index(other.evidence) >= TIERS.index(row.evidence):
            raise UserError(f"{other.filename} is on the board already, with evidence {other.evidence!r}")


def _rows(claim: Claim, evidence: Evidence, bar: Judge, walls: Walls, workers: int) -> tuple[list[Row], str | None, list[str]]:
    """Return the rows of a bundle by the wanted evidence, the walls that its code ran behind, and what there is to remark."""
    labels, jobs = bar.clean.labels.array, list(claim.jobs)
    claims = {job: claim.row(job, bar.pinned.digest) for job in jobs}
    if evidence == "claimed":
        return [_claimed(claim, job, claims[job], bar) for job in jobs], None, []
    sent = {job: claim.images(job) for job in jobs}
    if evidence == "rescored":
        lacking = [job.substitute for job in jobs if sent[job] is None]
        if lacking:
            raise UserError(f"{claim.bundle.path}: there are no images for {lacking[0]!r} to score; run it with images")
        submitted = claim.submitted(None)
        rows = [bar.row(job, claim.source, made, evidence, submitted, "elsewhere") for job, made in sent.items() if made]
        for job, row in zip(jobs, rows, strict=True):
            _check_claim(claims[job], row, labels)
        return rows, None, []
    if not claim.source.files:
        raise UserError(f"{claim.bundle.path}: it holds no code to regenerate the images with; add it as rescored")
    made, isolation = craft_all(claim.workspace, claim.source, all_blocks(claim.workspace, jobs), walls, workers, bar.notify)
    rows, remarks = [], []
    for job in jobs:
        row = bar.row(job, claim.source, made[job], evidence, claim.submitted(isolation), "cpu")
        remarks += _compare(job, sent[job], made[job], row, claims[job], bar)
        rows.append(row)
    return rows, isolation, remarks


def _compare(job: Job, sent: Made | None, made: Made, row: Row, claim: Row | None, bar: Judge) -> list[str]:
    """Hold what a bundle holds against what its own code makes here.

    Raises:
        UserError: the images are not by that code, or the claims are not of those images.
    """
    labels = bar.clean.labels.array
    if sent is None:
        _check_claim(claim, row, labels)
        return [f"{job.substitute}: the bundle has no images to compare with"]
    differing = int((sent.images != made.images).flatten(1).any(1).sum())
    if differing == 0:
        _check_claim(claim, row, labels)
        return [f"{job.substitute}: all {len(made.images)} images are the bundle's, byte for byte"]
    alike = likeness(sent.images, made.images, bar.workspace.data.images)
    if alike < ALIKE:
        raise UserError(
            f"{job.attack} on {job.substitute}: the bundle's images are not what its code makes here: {differing} images differ, "
            f"and their perturbations are not alike (median cosine {alike:.2f})"
        )
    theirs = bar.predict(sent.images)
    if claim is not None:
        for target, outcome in claim.outcomes.items():
            if target in theirs and int((outcome.adv.array != theirs[target]).sum()) > math.ceil(0.01 * len(labels)):
                where = f"{job.attack} on {job.substitute}"
                raise UserError(f"{where}: the bundle claims other outcomes of {target} than its images give")
    found = agree(theirs, {t: o.adv.array for t, o in row.outcomes.items()}, labels)
    if not found.consistent:
        raise UserError(
            f"{job.attack} on {job.substitute}: the bundle's images are not what its code makes here: {differing} images differ, "
            f"and so do the rates beyond chance (p = {found.p:.2g}; {found.worst})"
        )
    count = f"{differing} of {len(made.images)} images differ from the bundle's"
    return [f"{job.substitute}: {count}, the rates do not (p = {found.p:.2g})"]


def _check_claim(claim: Row | None, row: Row, labels: np.ndarray) -> None:
    if claim is not None:
        check_claim(claim, row, labels)


def _claimed(claim: Claim, job: Job, row: Row | None, bar: Judge) -> Row:
    if row is None:
        raise UserError(f"{claim.bundle.path}: it claims no outcomes for {job.substitute!r}, and no images were asked for")
    for target, outcome in row.outcomes.items():
        ours = bar.clean.predictions.get(target)
        if ours is not None and int((outcome.clean.array != ours.array).sum()) > math.ceil(0.01 * len(ours)):
            raise UserError(f"{claim.bundle.path}: {target} predicts otherwise on the clean images than the bundle claims")
    if row.max_level > claim.suite.budget.levels:
        raise UserError(f"{claim.bundle.path}: it claims images that differ by {row.max_level} levels, more than the budget")
    changes = {
        "submission": claim.submitted(None),
        "composition": claim.source.composition,
        "failures": {t: "not claimed" for t in claim.suite.target_names if t not in row.outcomes},
        "cost": row.cost.model_copy(update={"device": "elsewhere"}),
        "provenance": provenance(),
        "notes": None,
    }
    return row.model_copy(update=changes)


def _write(claim: Claim, bar: Judge, rows: Sequence[Row], added: Added) -> None:
    """Write what was checked: rows, the submission's source to verify them with, and the board."""
    folder = added.folder
    with exclusive(folder):
        own_folder(folder, bar.pinned)
        if claim.workspace.context.limit is None:
            begin(folder, claim.suite)
        write_clean(folder, bar.clean)
        store = folder / SUBMISSIONS / claim.source.submission.name
        atomic_write(store / FILE, claim.bundle.read(f"source/{FILE}"))
        for name, text in claim.source.files.items():
            atomic_write(store / name, text)
        for row in rows:
            for lower in TIERS[: TIERS.index(row.evidence)]:
                added.withdrawn += withdraw(folder, row.model_copy(update={"evidence": lower}).filename)
            added.written.append(write_row(folder, row))
        write_files(load_board(folder), folder)


def withdraw(folder: Path, filename: str) -> list[str]:
    """Remove a row and record that in the chain; return its name in a list, or an empty one when it is not there."""
    path = folder / "rows" / filename
    if not path.is_file():
        return []
    remove(path)
    chain.append(folder, filename, None)
    return [filename]


def take_off(folder: Path, name: str) -> list[str]:
    """Withdraw all rows of a submission, forget its source and write the board anew; return the names of the rows.

    Raises:
        UserError: the board has no such submission, or nothing else.
    """
    rows = [row for row in read_rows(folder) if row.attack == name and row.submission is not None]
    if not rows:
        raise UserError(f"{folder} has no submission {name!r}")
    with exclusive(folder):
        gone = [gone for row in rows for gone in withdraw(folder, row.filename)]
        for path in sorted((folder / SUBMISSIONS / name).glob("*")):
            remove(path)
        (folder / SUBMISSIONS / name).rmdir()
        write_files(load_board(folder), folder)
    return gone
