"""Does an attack need its substitute and its images? Tried where an honest attack fails, and where it must not.

Perturbations that were worked out beforehand, and targets' weights inside the code, succeed without the substitute. So the code
is run again on a sample of the images: on decoys, which have the substitute's architecture and classify the sample as well but
know nothing else, an honest attack does no more than noise; on images moved by one level, with the substitute's weights nudged,
it does as well as before, while code that knows the images or the weights by heart is lost. Where the suite holds images back,
it is run on those, too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.records.rows import Controls
from harness.runs.craft import spans
from harness.sandbox import Change
from harness.sandbox.changes import Kind
from harness.submit.make import Order, Scene, Span
from harness.submit.measure import Judge, one_sided
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.data import Dataset
from zoo.errors import UserError

SAMPLE = 100
"""Images that the controls are run on, rounded up to whole blocks."""
DECOYS: tuple[Kind, ...] = ("shuffle", "sign")
"""How the weights of each decoy are made."""
GRAINS = (1, 2, 4, 8)
"""Sizes in pixels of the squares of the noise that a success is measured from."""
SHARE = 0.25
"""Part of the success (beyond noise) that may stay on a decoy, or be lost on moved or hidden images."""
FLOOR = 0.05
"""So much may stay or be lost in any case: smooth gradients of any network do a little more than noise."""
ALPHA = 0.01


@dataclass(frozen=True)
class Trial:
    """The controls of one job: what is to be crafted, before it is."""

    job: Job
    seed: int
    sample: tuple[Span, ...]
    index: Tensor
    decoys: tuple[Order, ...]
    moved: Order
    hidden: Order | None

    @property
    def orders(self) -> list[Order]:
        """All that is to be crafted."""
        return [*self.decoys, self.moved, *([self.hidden] if self.hidden else [])]


def plan(bar: Judge, job: Job, blocks: Sequence[Span], seed: int, hidden: Dataset | None) -> Trial:
    """Return the controls of a job on a random sample of its blocks."""
    workspace = bar.workspace
    count = max(1, math.ceil(SAMPLE / workspace.suite.block))
    sample = tuple(sorted(random.Random(seed).sample(list(blocks), min(count, len(blocks)))))
    index = torch.cat([torch.arange(*block) for block in sample])
    changes = [Change(kind, (seed + n) % 2**31, index.tolist()) for n, kind in enumerate(DECOYS)]
    full, n = workspace.full, len(workspace.data)
    moved = Dataset(full.name, full.split, move(full.images, seed), full.labels, full.ids)
    unseen = None
    if hidden is not None:
        unseen = Order(job, tuple(spans(len(hidden), workspace.suite.block)), Scene(hidden, len(hidden)))
    return Trial(
        job,
        seed,
        sample,
        index,
        tuple(Order(job, sample, Scene(full, n, change)) for change in changes),
        Order(job, sample, Scene(moved, n, Change("nudge", seed))),
        unseen,
    )


def move(images: Tensor, seed: int) -> Tensor:
    """Return uint8 images each of whose bytes is one level up or down, by seed; at the ends of the range it goes inwards."""
    up = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int16) * 2 - 1
    moved = images.to(torch.int16) + up
    return torch.where((moved < 0) | (moved > 255), images.to(torch.int16) - up, moved).to(torch.uint8)


def noisy(images: Tensor, levels: int, grain: int, seed: int) -> Tensor:
    """Return uint8 images (N, C, H, W) with each square of `grain` pixels up or down by the whole budget, by seed."""
    n, channels, height, width = images.shape
    shape = (n, channels, -(-height // grain), -(-width // grain))
    signs = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1
    grown = interpolate(signs, scale_factor=grain, mode="nearest")[..., :height, :width]
    return (images.to(torch.int16) + (levels * grown).to(torch.int16)).clamp(0, 255).to(torch.uint8)


def successes(bar: Judge, job: Job, adv: Tensor, index: Tensor) -> np.ndarray:
    """Return per image (N,) the share of the black-box targets that classify it when clean and not any more."""
    labels = bar.clean.labels.array[index]
    clean = {t: bar.clean.predictions[t].array[index] for t in bar.targets}
    return _fooled(bar, job, bar.predict(adv), clean, labels)


def _fooled(
    bar: Judge, job: Job, found: dict[str, np.ndarray], clean: dict[str, np.ndarray], labels: np.ndarray
) -> np.ndarray:
    white = [t for t in found if bar.pinned.whitebox(job.substitute, t)]
    targets = [t for t in found if t not in white] or white
    right = np.stack([clean[t] == labels for t in targets])
    wrong = np.stack([found[t] != labels for t in targets]) & right
    return np.asarray(wrong.sum(0) / np.maximum(right.sum(0), 1))


def judge_controls(bar: Judge, trial: Trial, adv: Tensor, made: Sequence[Tensor]) -> tuple[Controls, str]:
    """Return the figures of a job's controls, and what speaks against it; empty when nothing does.

    Args:
        bar: the targets.
        trial: what was planned.
        adv: the attack's images of the sample.
        made: the images of `trial.orders`.
    """
    job, index, levels = trial.job, trial.index, bar.workspace.suite.budget.levels
    clean = bar.workspace.full.images[index]
    real = successes(bar, job, adv, index)
    noises = [successes(bar, job, noisy(clean, levels, grain, trial.seed), index) for grain in GRAINS]
    noise = max(noises, key=lambda each: float(each.mean()))
    decoys = [successes(bar, job, images, index) for images in made[: len(trial.decoys)]]
    moved = successes(bar, job, made[len(trial.decoys)], index)
    hidden = _hidden(bar, trial, made[-1]) if trial.hidden else None
    controls = Controls(
        seed=trial.seed,
        images=len(index),
        success=_mean(real),
        noise=_mean(noise),
        decoys=tuple(_mean(each) for each in decoys),
        moved=_mean(moved),
        hidden=None if hidden is None else _mean(hidden),
    )
    return controls, against(real, noise, decoys, moved, hidden)


def against(
    real: np.ndarray, noise: np.ndarray, decoys: Sequence[np.ndarray], moved: np.ndarray, hidden: np.ndarray | None
) -> str:
    """Say what speaks against an attack, given its success per image and that of its controls; empty when nothing does."""
    own = SHARE * (real - noise)
    if float(own.mean()) < FLOOR:
        own = np.full_like(real, FLOOR)
    for decoy in decoys:
        if one_sided(decoy - noise - own) < ALPHA:
            return (
                f"its success does not depend on the substitute: {_percent(decoy)} with other weights, {_percent(real)} with the "
                f"substitute's, {_percent(noise)} by noise"
            )
    if one_sided(real - moved - own) < ALPHA:
        return (
            f"its success depends on the exact images or weights: {_percent(moved)} when they are moved by one level, "
            f"{_percent(real)} as they are"
        )
    if hidden is not None and _lower(hidden, real, float(own.mean())) < ALPHA:
        return f"it succeeds on the images that everybody has alone: {_percent(hidden)} on those held back, {_percent(real)} here"
    return ""


def _lower(hidden: np.ndarray, real: np.ndarray, allowance: float) -> float:
    """Return the one-sided p (Welch's test) that the mean on hidden images is not below the other one less an allowance."""
    from scipy.stats import ttest_ind

    if not (hidden.std() or real.std()):
        return 0.0 if float(hidden.mean()) < float(real.mean()) - allowance else 1.0
    return float(ttest_ind(hidden + allowance, real, equal_var=False, alternative="less").pvalue)


def _hidden(bar: Judge, trial: Trial, adv: Tensor) -> np.ndarray:
    assert trial.hidden is not None
    data = trial.hidden.scene.data
    return _fooled(bar, trial.job, bar.predict(adv), bar.predict(data.images), data.labels.numpy())


def held_back(suite: Suite, seed: str | None) -> Dataset | None:
    """Return the images that a suite holds back; None when it holds none back, or nobody gives the seed.

    Raises:
        UserError: the seed is not the one that the suite has a digest of, or the data set has too few images.
    """
    import hashlib

    from zoo.data import load

    spec = suite.hidden
    if seed is None:
        return None
    if spec is None:
        raise UserError(f"suite {suite.name} holds no images back; leave --hidden-seed out")
    if hashlib.sha256(seed.encode()).hexdigest() != spec.seed_sha256:
        raise UserError(f"that is not the seed of the images that suite {suite.name} holds back")
    data = load(suite.data.name, suite.data.split)
    rest = list(range(suite.data.limit or 0, len(data)))
    if len(rest) < spec.images:
        raise UserError(f"suite {suite.name} holds {spec.images} images back; {suite.data.name} has {len(rest)} beyond its own")
    index = sorted(random.Random(seed).sample(rest, spec.images))
    return Dataset(data.name, data.split, data.images[index], data.labels[index], tuple(data.ids[i] for i in index))


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 6)


def _percent(values: np.ndarray) -> str:
    return f"{100 * float(values.mean()):.1f} %"
