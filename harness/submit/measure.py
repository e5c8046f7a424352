"""What the targets say of submitted images, by our own hand, and how it compares with what others say."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.board.statistics import sign_flip
from harness.records.pinned import PinnedSuite
from harness.records.provenance import provenance
from harness.records.rows import Clean, Cost, Evidence, Outcome, Predictions, Row, Submitted
from harness.runs.admission import absent_models, admit
from harness.runs.craft import max_level
from harness.runs.executors.local import Local
from harness.runs.runner import suite_folder
from harness.runs.score import predictions
from harness.runs.similarity import size
from harness.runs.stage import Report, Stage
from harness.runs.workspace import Workspace, describe
from harness.storage.shards import digest
from harness.submit.make import CraftedImages, Notify, substitute_sha256
from harness.submit.record import Source
from harness.suites.selection import Job
from zoo.errors import UserError

ALPHA = 0.05
ALLOWED = 0.01
"""Share of predictions that may differ between two machines."""
ALIKE = 0.5
ABSENT = "its weights were not at hand"
UNFIT = "it is less accurate here than the registry claims"
FAILED = "it could not predict the clean images"
REASONS = (ABSENT, UNFIT, FAILED)
"""All that a submitted row gives as the reason of a missing cell."""


@dataclass(frozen=True)
class Judge:
    """The targets of a suite, ready to score, with what they predict on the clean images."""

    workspace: Workspace
    pinned: PinnedSuite
    clean: Clean
    blocked: Mapping[str, str]
    executor: Local
    notify: Notify

    @property
    def targets(self) -> list[str]:
        """Targets that can be scored here."""
        return [t for t in self.workspace.suite.target_names if t not in self.blocked]

    def predict(self, images: Tensor) -> dict[str, np.ndarray]:
        """Return what each target predicts on uint8 images (N, C, H, W)."""
        tasks = [(target, self.workspace.score_key(target)) for target in self.targets]
        found: dict[str, np.ndarray] = {}
        for (target, _), result in self.executor.run(partial(predictions, self.workspace.context, None, images.numpy()), tasks):
            if isinstance(result, UserError):
                raise result
            found[target] = np.asarray(result)
        return found

    def outcomes(self, images: Tensor) -> dict[str, Outcome]:
        """Return the outcome of each target on all images of the run."""
        found = self.predict(images)
        return {t: Outcome(clean=self.clean.predictions[t], adv=Predictions(found[t])) for t in self.targets}

    def row(self, job: Job, source: Source, made: CraftedImages, evidence: Evidence, submitted: Submitted, device: str) -> Row:
        """Score a job's images and return its row."""
        workspace = self.workspace
        outcomes = self.outcomes(made.images)
        return Row(
            suite=workspace.suite.name,
            suite_version=workspace.suite.version,
            suite_digest=self.pinned.digest,
            attack=job.attack,
            composition=source.composition,
            substitute=job.substitute,
            substitute_sha256=substitute_sha256(workspace, job.substitute),
            seed=job.seed,
            limit=workspace.context.limit,
            images_sha256=digest(made.images),
            max_level=max_level(made.images, workspace.data.images),
            size=size(made.images, workspace.data.images, workspace.context.device),
            outcomes=outcomes,
            failures={t: self.blocked[t] for t in workspace.suite.target_names if t in self.blocked},
            cost=Cost(
                forwards=made.forwards if source.files else None,
                backwards=made.backwards if source.files else None,
                seconds=round(made.seconds, 3),
                device=device,
            ),
            provenance=provenance(engines=workspace.engines(outcomes)),
            evidence=evidence,
            submission=submitted,
        )


@contextmanager
def judge(workspace: Workspace, out: Path | None, workers: int, notify: Notify) -> Iterator[Judge]:
    """Gather a suite's targets and their clean predictions; those of the board in `out` are reused, and nothing is written.

    Raises:
        UserError: no target can be scored.
    """
    with tempfile.TemporaryDirectory() as place, Local(workers) as executor:
        folder = Path(place)
        if out is not None and (known := suite_folder(out, workspace.suite, workspace.context.limit) / "clean.json").is_file():
            shutil.copyfile(known, folder / "clean.json")
        absent = absent_models(workspace, workspace.suite.target_names)
        pinned = describe(workspace, absent_models(workspace, workspace.suite.model_names))
        work = Stage(workspace.context, pinned, executor, notify, Report(folder))
        clean, failed = admit(work, [t for t in workspace.suite.target_names if t not in absent])
        if len(absent | failed) == len(workspace.suite.target_names):
            raise UserError(f"no target of {workspace.suite.name} can be scored here: {next(iter((absent | failed).values()))}")
        unfit = {t: UNFIT if t in clean.predictions else FAILED for t in failed}
        blocked = {**dict.fromkeys(absent, ABSENT), **unfit}
        yield Judge(workspace, pinned, clean, blocked, executor, notify)


@dataclass(frozen=True)
class Agreement:
    """How two sets of predictions on the same images agree."""

    images: int
    differing: int
    """Predictions that differ, over all targets."""
    predictions: int
    too_many: str
    """Where more predictions differ than the allowance; empty when nowhere."""
    p: float
    """One-sided p that the stated mean rate is no higher than the one found."""
    rates: tuple[float, float]
    """Mean error rates, stated and found."""

    @property
    def identical(self) -> bool:
        """Whether all predictions are the same."""
        return self.differing == 0

    @property
    def why(self) -> str:
        """The comparison in words."""
        share = f"{self.differing} of {self.predictions} predictions differ"
        if self.too_many:
            return f"{share}, more than one in a hundred ({self.too_many})"
        said, found = (f"{100 * rate:.1f} %" for rate in self.rates)
        return f"{share}; wrong on average {said} as stated, {found} as found (one-sided p = {self.p:.2g})"

    @property
    def consistent(self) -> bool:
        """Whether another machine's kernels may account for the difference."""
        return not self.too_many and self.p >= ALPHA


def agree(said: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], labels: np.ndarray) -> Agreement:
    """Compare predictions (N,) per target, stated and found.

    Another machine's kernels tip a prediction here and there, in either direction: one in a hundred may differ, for each target
    and in all, and the mean rate over targets must not be higher as stated than as found (sign-flip test over images, one-sided
    and uncorrected: whoever forges chooses the direction).
    """
    targets = [t for t in said if t in found]
    if not targets:
        raise UserError("there is no target that both sides have scored")
    differing = {t: int((said[t] != found[t]).sum()) for t in targets}
    everything, total = len(targets) * len(labels), sum(differing.values())
    place = max(targets, key=lambda t: differing[t])
    too_many = ""
    if differing[place] > math.ceil(ALLOWED * len(labels)):
        too_many = f"{differing[place]} of {len(labels)} of {place}"
    elif total > math.ceil(ALLOWED * everything):
        too_many = f"{total} of {everything} in all"
    wrong = [(said[t] != labels, found[t] != labels) for t in targets]
    difference = np.mean([a.astype(float) - b.astype(float) for a, b in wrong], axis=0)
    rates = (float(np.mean([a.mean() for a, _ in wrong])), float(np.mean([b.mean() for _, b in wrong])))
    return Agreement(len(labels), total, everything, too_many, one_sided(difference), rates)


def one_sided(differences: np.ndarray) -> float:
    """Return the one-sided p of the sign-flip test that the mean of paired differences is not above zero."""
    p = sign_flip(differences)
    return p / 2 if float(differences.sum()) > 0 else 1 - p / 2


def likeness(a: Tensor, b: Tensor, clean: Tensor) -> float:
    """Return the median cosine between the perturbations of two sets of images (N, C, H, W).

    The same code with the same seeds on another processor tips a few signs and stays well above `ALIKE`; other code does not.
    """
    first, second = ((x.to(torch.float32) - clean.to(torch.float32)).flatten(1) for x in (a, b))
    return float(torch.nn.functional.cosine_similarity(first, second).median())


def rates(row: Row, labels: Sequence[int] | np.ndarray) -> str:
    """Return a row's mean error rate over its targets, in words."""
    values = [float((o.adv.array != np.asarray(labels)).mean()) for o in row.outcomes.values()]
    if not values:
        return "no target scored"
    return f"{100 * sum(values) / len(values):.1f} % wrong on average over {len(values)} targets"
