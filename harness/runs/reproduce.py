"""One row made again from what it says of itself."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.board.statistics import proportion
from harness.records.pinned import PinnedSuite
from harness.records.rows import Row, read_row
from harness.runs.craft import craft
from harness.runs.score import score
from harness.runs.workspace import Context, Workspace, declared, describe, forget, workspace_of
from harness.storage import shards
from harness.suites.selection import Job
from zoo.errors import UserError


@dataclass(frozen=True)
class TargetVerdict:
    """One target: how many of its predictions differ from the row's, and both ASRs on the images it gets right when clean."""

    target: str
    differing: int
    row_asr: float | None
    new_asr: float | None
    agrees: bool
    """Whether the new rate lies in the 95 % interval of the row's."""


@dataclass(frozen=True)
class Verdict:
    """Whether a row is what it says: to the byte, or in its rates."""

    row: Row
    images_identical: bool
    targets: tuple[TargetVerdict, ...]
    engines: tuple[tuple[str, str, str], ...] = ()
    """Per deployed target whose engine is another one here, or runs on another CPU: its name, and both as rows say it."""

    @property
    def identical(self) -> bool:
        """Whether every image and every prediction is the same."""
        return self.images_identical and not any(t.differing for t in self.targets)

    @property
    def agrees(self) -> bool:
        """Whether every rate lies in the interval of the row's."""
        return all(t.agrees for t in self.targets)

    @property
    def words(self) -> str:
        """The verdict in one line."""
        name = self.row.filename
        if self.identical:
            return f"{name}: reproduced to the byte, images and all predictions of {len(self.targets)} targets"
        images = "the images are identical" if self.images_identical else "the images differ"
        apart = [t.target for t in self.targets if not t.agrees]
        if not apart:
            return f"{name}: {images}; every rate lies in the interval of the row's{self._by_engine()}"
        return f"{name}: NOT reproduced: {images}, and {len(apart)} of {len(self.targets)} rates lie outside, first {apart[0]}"


    def _by_engine(self) -> str:
        """Say so where all that differs is how deployed targets are run: engines round otherwise on other CPUs."""
        other = {target: (then, now) for target, then, now in self.engines}
        differing = [t.target for t in self.targets if t.differing]
        if not self.images_identical or not differing or not all(target in other for target in differing):
            return ""
        then, now = other[differing[0]]
        named = f"{differing[0]} and {len(differing) - 1} more" if len(differing) > 1 else differing[0]
        return f": same rates, other bytes, of {named} alone, which {then} ran and here {now}"


def reproduce(path: Path, device: str = "cpu", overlays: tuple[str, ...] = ()) -> Verdict:
    """Craft and score one row again, from nothing that an earlier run left, and compare.

    Args:
        path: the row's file, inside its leaderboard folder.
        device: where to run.
        overlays: registry files of the user's own.

    Raises:
        UserError: the folder's suite, models or images are not what this machine has.
    """
    row = read_row(path)
    if row.submission is not None:
        raise UserError(f"{path.name} is a submission's, whose code or images came with it; do it by: harness verify {path}")
    pinned = PinnedSuite.read(path.parent.parent)
    with tempfile.TemporaryDirectory() as scratch:
        forget()
        context = replace(Context(pinned.suite, overlays, device, row.limit, scratch), **declared(row.provenance.precision))
        workspace = workspace_of(context)
        job = checked_job(workspace, row, pinned)
        images = craft(context, job).images
        labels = workspace.data.labels.numpy()
        verdicts = []
        for target, outcome in row.outcomes.items():
            new = score(context, job, target).numpy()
            verdicts.append(_compare(target, outcome.clean.array, outcome.adv.array, new, labels))
    then, now = row.provenance.engines or {}, workspace.engines(row.outcomes)
    engines = tuple((t, then.get(t, "an engine unknown"), now[t]) for t in now if then.get(t) != now[t])
    return Verdict(row, shards.digest(images) == row.images_sha256, tuple(verdicts), engines)


def checked_job(workspace: Workspace, row: Row, pinned: PinnedSuite) -> Job:
    """Return the row's job after making sure that suite, models, images and attack are those of the row."""
    now = describe(workspace, {})
    if row.suite_digest != pinned.digest or now.digest != pinned.digest:
        changed = [m for m, known in pinned.models.items() if now.models[m].sha256 != known.sha256]
        why = f"the weights of {changed[0]} are others" if changed else "its images or settings are others"
        raise UserError(f"{row.filename} was made under another {row.suite} (digest {row.suite_digest[:12]}): {why}")
    composition = repr(workspace.attack(row.attack))
    if composition != row.composition:
        raise UserError(f"{row.filename}: attack {row.attack!r} is composed otherwise now: {composition}, was {row.composition}")
    job = Job(row.substitute, row.attack, row.seed)
    if row.job_sha256 is not None and workspace.job_key(job.substitute, job.attack, job.seed) != row.job_sha256:
        raise UserError(f"{row.filename}: substitute {row.substitute!r} is described otherwise now, or its images are others")
    return job


def _compare(target: str, clean: np.ndarray, old: np.ndarray, new: np.ndarray, labels: np.ndarray) -> TargetVerdict:
    right = clean == labels
    n = int(right.sum())
    was, now = proportion(int((right & (old != labels)).sum()), n), proportion(int((right & (new != labels)).sum()), n)
    differing = int((old != new).sum())
    if was is None or now is None:
        return TargetVerdict(target, differing, None, None, differing == 0)
    return TargetVerdict(target, differing, was.value, now.value, was.low <= now.value <= was.high)
