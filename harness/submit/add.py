"""A bundle onto the board: the rows are made here, by our own hand, and everything is checked before anything is written."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from harness.board import load as load_board
from harness.board import write_files
from harness.records import chain
from harness.records.rows import Controls, Evidence, Row, read_rows, write_clean, write_row
from harness.runs.ownership import own_folder
from harness.runs.runner import suite_folder
from harness.storage.files import atomic_write, remove
from harness.storage.lock import exclusive
from harness.submit.claim import Claim, open_claim
from harness.submit.controls import Trial, held_back, judge_controls, plan
from harness.submit.flags import fingerprint, flags
from harness.submit.make import CraftedImages, Notify, Walls, all_blocks, craft_all
from harness.submit.measure import ALIKE, Judge, agree, judge, likeness
from harness.submit.record import FILE, read_folder
from harness.submit.taken import SUBMISSIONS, check_name, evident
from harness.suites.selection import Job
from harness.suites.suite import Suite
from harness.suites.versions import begin
from zoo.data import Dataset
from zoo.errors import UserError

TIERS: tuple[Evidence, ...] = ("claimed", "rescored", "regenerated")
ADDABLE: tuple[Evidence, ...] = ("rescored", "regenerated")


@dataclass
class Added:
    """What `submit add` did."""

    folder: Path
    evidence: Evidence
    written: list[Path] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    isolation: str | None = None
    remarks: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    """What a person should look at before the rows are believed."""


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
    hidden_seed: str | None = None,
    notify: Notify | None = None,
) -> Added:
    """Check a bundle, make its rows and write them; the tier of evidence is the best that it allows, unless one is asked for.

    Args:
        path: the bundle.
        out: folder of the leaderboards.
        evidence: `rescored` or `regenerated`.
        walls: how its code is walled in.
        device: where the targets run.
        overlays: further files of the registry.
        workers: sandboxes and processes at a time.
        suite: the suite, when it does not ship with the package.
        hidden_seed: the maintainers' seed of the images that the suite holds back.
        notify: called with the progress.

    Raises:
        UserError: something is wrong with it. Nothing was written then.
    """
    notify = notify or (lambda what, done, total: None)
    claim = open_claim(path, device, overlays, suite)
    folder = suite_folder(out, claim.suite, claim.workspace.context.limit)
    evidence = evidence or best_evidence(claim)
    known = _known(folder)
    check_name(claim, known, folder, out)
    check_code(claim, known, folder)
    hidden = held_back(claim.suite, hidden_seed)
    added = Added(folder, evidence, flags=flags(claim.source))
    with judge(claim.workspace, out, workers, notify) as bar:
        rows = _rows(claim, bar, walls or Walls(), workers, hidden, added)
        for row in rows:
            check_new(row, known)
        _write(claim, bar, rows, added, out)
    return added


def best_evidence(claim: Claim) -> Evidence:
    """Return the best tier that a bundle's parts allow."""
    return "regenerated" if claim.source.files else "rescored"


def _known(folder: Path) -> list[Row]:
    return list(read_rows(folder)) if (folder / "suite.yaml").is_file() else []


def check_code(claim: Claim, known: Iterable[Row], folder: Path) -> None:
    """Refuse code that is on the board under another name, comments and layout aside.

    Raises:
        UserError: so it is.
    """
    mine = claim.source.submission.name
    if not claim.source.files:
        return
    for name in sorted({row.attack for row in evident(known) if row.submission is not None} - {mine}):
        other = read_folder(folder / SUBMISSIONS / name)
        if other.files and fingerprint(other) == fingerprint(claim.source):
            raise UserError(f"{mine}: this is the code of {name!r}, but for names of files, comments and layout")


def check_new(row: Row, known: Iterable[Row]) -> None:
    """Refuse images that are on the board under another name, and rows that are there with as good evidence.

    Raises:
        UserError: so it is.
    """
    for other in evident(known):
        if other.attack != row.attack:
            if other.images_sha256 == row.images_sha256:
                raise UserError(f"{row.attack} on {row.substitute}: these are the images of {other.attack!r}, byte for byte")
            continue
        same = (other.substitute, other.seed) == (row.substitute, row.seed)
        if same and TIERS.index(other.evidence) >= TIERS.index(row.evidence):
            raise UserError(f"{other.filename} is on the board already, with evidence {other.evidence!r}")


def _rows(claim: Claim, bar: Judge, walls: Walls, workers: int, hidden: Dataset | None, added: Added) -> list[Row]:
    """Return the rows of a bundle by the wanted evidence; note its walls and what there is to remark."""
    jobs = list(claim.jobs)
    sent = {job: claim.images(job) for job in jobs}
    if added.evidence == "rescored":
        lacking = [job.substitute for job in jobs if sent[job] is None]
        if lacking:
            raise UserError(f"{claim.bundle.path}: there are no images for {lacking[0]!r} to score; run it with images")
        submitted = claim.submitted(None)
        return [bar.row(job, claim.source, made, added.evidence, submitted, "elsewhere") for job, made in sent.items() if made]
    if added.evidence not in ADDABLE:
        raise UserError(f"rows are made here, as {' or '.join(ADDABLE)}; nobody's word is put on a board")
    if not claim.source.files:
        raise UserError(f"{claim.bundle.path}: it holds no code to regenerate the images with; add it as rescored")
    made, controls = _regenerated(claim, bar, walls, workers, hidden, added)
    rows = []
    for job in jobs:
        submitted = claim.submitted(added.isolation, controls[job])
        row = bar.row(job, claim.source, made[job], added.evidence, submitted, "cpu")
        added.remarks += [*_compare(job, sent[job], made[job], row, bar), f"{job.substitute}: {words(controls[job])}"]
        rows.append(row)
    if claim.source.submission.internals:
        added.flags.append("it works inside the substitute's networks (internals: true), so its passes are not counted")
    elif not all(made[job].forwards for job in jobs):
        added.flags.append("it makes no pass through its substitute at all: where is its gradient from?")
    return rows


def _regenerated(
    claim: Claim, bar: Judge, walls: Walls, workers: int, hidden: Dataset | None, added: Added
) -> tuple[Mapping[Job, CraftedImages], Mapping[Job, Controls]]:
    """Craft all images and the controls of every job, and refuse what does not need its substitute.

    Raises:
        UserError: so it is; the message gives the figures.
    """
    whole = all_blocks(claim.workspace, claim.jobs)
    draw = random.SystemRandom()
    trials = [plan(bar, order.job, order.blocks, draw.randrange(2**31), hidden) for order in whole]
    orders = [*whole, *(order for trial in trials for order in trial.orders)]
    images, added.isolation = craft_all(claim.workspace, claim.source, orders, walls, workers, bar.notify)
    made = {order.job: found for order, found in zip(whole, images, strict=False)}
    rest, controls = [m.images for m in images[len(whole) :]], {}
    for trial in trials:
        mine, rest = rest[: len(trial.orders)], rest[len(trial.orders) :]
        controls[trial.job] = _controlled(bar, trial, made[trial.job].images[trial.index], mine)
    return made, controls


def _controlled(bar: Judge, trial: Trial, adv: Tensor, made: Sequence[Tensor]) -> Controls:
    controls, problem = judge_controls(bar, trial, adv, made)
    if problem:
        raise UserError(f"{trial.job.attack} on {trial.job.substitute}: {problem}; such a success is no transfer from it")
    return controls


def words(controls: Controls) -> str:
    """Return a row's controls in words."""
    decoys = " and ".join(f"{100 * rate:.1f} %" for rate in controls.decoys)
    hidden = "" if controls.hidden is None else f", {100 * controls.hidden:.1f} % on images held back"
    return (
        f"on {controls.images} images {100 * controls.success:.1f} %, noise {100 * controls.noise:.1f} %, with decoy substitutes "
        f"{decoys}, moved by one level {100 * controls.moved:.1f} %{hidden}"
    )


def _compare(job: Job, sent: CraftedImages | None, made: CraftedImages, row: Row, bar: Judge) -> list[str]:
    """Hold the images of a bundle against what its own code makes here.

    Raises:
        UserError: the images are not by that code.
    """
    if sent is None:
        return []
    differing = int((sent.images != made.images).flatten(1).any(1).sum())
    if differing == 0:
        return [f"{job.substitute}: all {len(made.images)} images are the bundle's, byte for byte"]
    problem = f"{job.attack} on {job.substitute}: the bundle's images are not what its code makes here: {differing} images differ"
    alike = likeness(sent.images, made.images, bar.workspace.data.images)
    if alike < ALIKE:
        raise UserError(f"{problem}, and their perturbations are not alike (median cosine {alike:.2f})")
    found = agree(bar.predict(sent.images), {t: o.adv.array for t, o in row.outcomes.items()}, bar.clean.labels.array)
    if not found.consistent:
        raise UserError(f"{problem}, and so do their outcomes: {found.why}")
    return [f"{job.substitute}: {differing} of {len(made.images)} images differ from the bundle's; {found.why}"]


def _write(claim: Claim, bar: Judge, rows: Sequence[Row], added: Added, out: Path) -> None:
    """Write what was checked: rows, the submission's source to verify them with, and the board."""
    folder, name = added.folder, claim.source.submission.name
    with exclusive(folder):
        known = _known(folder)  # again: somebody may have been faster
        check_name(claim, known, folder, out)
        for row in rows:
            check_new(row, known)
        own_folder(folder, bar.pinned)
        if claim.workspace.context.limit is None:
            begin(folder, claim.suite)
        write_clean(folder, bar.clean)
        store = folder / SUBMISSIONS / name
        atomic_write(store / FILE, claim.bundle.read(f"source/{FILE}"))
        for file, text in claim.source.files.items():
            atomic_write(store / file, text)
        for other in known:
            if other.attack == name and other.evidence == "claimed":
                added.withdrawn += withdraw(folder, other.filename)
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
