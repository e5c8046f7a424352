"""The lines of a board: a substitute and an attack over their seeds, with the rates of every target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.board.frame import Frame
from harness.board.statistics import Bools, Floats, Rate, Rates, proportion
from harness.records.rows import Cost, Evidence, Size

TIERS: dict[Evidence, str] = {
    "regenerated": "images made and scored by the harness",
    "rescored": "submitted images, scored by the harness",
    "claimed": "as submitted, not checked",
}
"""Tiers of evidence, best first, in words."""


@dataclass(frozen=True)
class Cell:
    """One target of one row, for the CSV: rates are fractions; None is no data."""

    target: str
    seed: int
    n: int
    n_correct: int
    asr: Rate | None
    error: Rate | None
    clean_error: float | None
    whitebox: bool
    missing: str


@dataclass(frozen=True)
class Line:
    """One line of a board: a substitute and an attack over their seeds, all of one tier of evidence."""

    frame: Frame
    substitute: str
    attack: str
    evidence: Evidence
    composition: str
    seeds: tuple[int, ...]
    images: int
    """Number of images, fewer than the suite's when the row was limited."""
    wrong: NDArray[np.uint8]
    """(seeds, targets, images): whether the target is wrong on the adversarial image."""
    missing: dict[str, str]
    """Per target without a figure, the reason."""
    seed_missing: tuple[dict[str, str], ...]
    """The same for each seed alone."""
    whitebox: Bools
    """Per target, whether the cell is no transfer."""
    common: Bools
    """Per target, whether it is black-box for every line of the board, so that lines can be ranked by it."""
    costs: tuple[Cost, ...] = ()
    """What crafting each seed took."""
    sizes: tuple[Size, ...] = ()
    """How large the perturbations of each seed are; of none when a row does not say."""

    @cached_property
    def measured(self) -> Bools:
        """Per target, whether it was scored under every seed."""
        return np.array([target not in self.missing for target in self.frame.targets], dtype=bool)

    @cached_property
    def usable(self) -> Bools:
        """Per target, whether it goes into means: scored and black-box."""
        return self.measured & ~self.whitebox

    @cached_property
    def correct(self) -> Bools:
        """Per target and image of this line, whether the target is right when clean."""
        return self.frame.correct[:, : self.images]

    @property
    def share(self) -> Floats:
        """Per target and image, the share of seeds under which the target is wrong."""
        share: Floats = self.wrong.mean(axis=0, dtype=np.float64)
        return share

    @cached_property
    def asr(self) -> Rates:
        """Success rates on the images that a target gets right when clean."""
        return Rates(self.share, self.correct & self.measured[:, None])

    @cached_property
    def error(self) -> Rates:
        """Error rates over all images."""
        return Rates(self.share, np.broadcast_to(self.measured[:, None], self.share.shape))

    @cached_property
    def clean_error(self) -> Floats:
        """Per target, the error rate on the clean images: the floor of the error rate."""
        floor: Floats = 1 - self.correct.mean(axis=1)
        return floor

    @cached_property
    def common_weights(self) -> Floats:
        """Weights of the mean over families of the common targets."""
        return self.frame.weights(self.measured & self.common, self.correct)

    @cached_property
    def overall(self) -> Rate | None:
        """Success rate over the common targets, each family counting alike."""
        return self.asr.mean(self.common_weights) if self.common_weights.any() else None

    @cached_property
    def own(self) -> Rate | None:
        """Success rate over all its black-box targets, each family counting alike; not comparable between substitutes."""
        weights = self.frame.weights(self.usable, self.correct)
        return self.asr.mean(weights) if weights.any() else None

    @property
    def ranked(self) -> bool:
        """Whether every common target was measured, so that the line can be ranked."""
        return self.overall is not None and bool(self.measured[self.common].all())

    @property
    def gradients(self) -> int | None:
        """Backward passes of the substitute per image; None when the attack does not declare them."""
        return next((cost.backwards for cost in self.costs), None)

    @property
    def seconds(self) -> float | None:
        """Seconds per image that crafting took, mean over seeds, whatever the device; None where no time is known."""
        known = [cost.seconds / self.images for cost in self.costs if cost.seconds > 0 and self.images]
        return sum(known) / len(known) if known else None

    @property
    def size(self) -> Size | None:
        """Mean size of the perturbations over seeds; None when a row does not say."""
        if not self.sizes:
            return None
        l2, ssim = (sum(getattr(size, key) for size in self.sizes) / len(self.sizes) for key in ("l2", "ssim"))
        return Size(l2=l2, ssim=ssim)

    def seed_overall(self) -> list[float]:
        """Return the success rate over the common targets for each seed alone."""
        if not self.common_weights.any():
            return []
        weights = self.common_weights / self.common_weights.sum()
        counts = np.maximum(self.correct.sum(axis=1), 1)
        return [float(weights @ ((wrong * self.correct).sum(axis=1) / counts)) for wrong in self.wrong]

    def cells(self) -> Iterable[Cell]:
        """Return every target of every seed."""
        n_correct = self.correct.sum(axis=1)
        for seed, wrong, missing in zip(self.seeds, self.wrong, self.seed_missing, strict=True):
            errors, successes = wrong.sum(axis=1), (wrong * self.correct).sum(axis=1)
            for place, target in enumerate(self.frame.targets):
                there = target not in missing
                yield Cell(
                    target=target,
                    seed=seed,
                    n=self.images if there else 0,
                    n_correct=int(n_correct[place]) if there else 0,
                    asr=proportion(int(successes[place]), int(n_correct[place])) if there else None,
                    error=proportion(int(errors[place]), self.images) if there else None,
                    clean_error=float(self.clean_error[place]) if self.frame.known[place] else None,
                    whitebox=bool(self.whitebox[place]),
                    missing=missing.get(target, ""),
                )


def family_means(rates: Rates, frame: Frame, usable: Bools) -> dict[str, Rate | None]:
    """Return the mean of every family over its usable targets."""
    return group_means(rates, list(frame.members.items()), usable)


def group_means(rates: Rates, groups: Sequence[tuple[str, Bools]], usable: Bools) -> dict[str, Rate | None]:
    """Return the mean of every named group of targets over its usable ones; None where it has none."""
    return {title: rates.mean(member & usable) if (member & usable).any() else None for title, member in groups}
