"""Rows become the lines of a board: seeds are gathered, foreign rows refused, missing cells kept with their reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.board.protocol import SuiteView
from harness.results import Clean, Evidence, Row
from harness.stats import Bools, Floats, Rate, Rates, proportion
from zoo.errors import UserError

NOT_SCORED = "not scored"


@dataclass(frozen=True)
class Frame:
    """The axes of a board: its targets, their families and bitwidths, and which images count for which target."""

    suite: SuiteView
    clean: Clean

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Every target once, in the order of the families."""
        return tuple(dict.fromkeys(target for family in self.suite.families.values() for target in family))

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """True class of each image."""
        return self.clean.labels.array

    @cached_property
    def known(self) -> Bools:
        """Whether a target's clean predictions are there; without them no image is known to count."""
        return np.array([target in self.clean.predictions for target in self.targets], dtype=bool)

    @cached_property
    def correct(self) -> Bools:
        """Whether a target classifies a clean image correctly: (targets, images)."""
        made = np.zeros((len(self.targets), len(self.labels)), dtype=bool)
        for index, target in enumerate(self.targets):
            if target in self.clean.predictions:
                made[index] = self.clean.predictions[target].array == self.labels
        return made

    @cached_property
    def members(self) -> dict[str, Bools]:
        """Per family, which targets belong to it."""
        return {
            title: np.array([target in family for target in self.targets], dtype=bool)
            for title, family in self.suite.families.items()
        }

    @cached_property
    def widths(self) -> dict[int, Bools]:
        """Per bitwidth, widest first, which targets have it."""
        bits = np.array([self.suite.bits[target] for target in self.targets])
        return {int(width): bits == width for width in sorted(set(bits.tolist()), reverse=True)}

    def whitebox(self, substitute: str) -> Bools:
        """Return which targets are no transfer from this substitute."""
        return np.array([self.suite.whitebox(substitute, target) for target in self.targets], dtype=bool)

    def weights(self, usable: Bools, correct: Bools) -> Floats:
        """Return weights for the mean over families: every family counts alike, and within it every usable target."""
        usable = usable & correct.any(axis=1)
        total: Floats = np.zeros(len(self.targets))
        for member in self.members.values():
            inside = member & usable
            if inside.any():
                total += inside / inside.sum()
        return total


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
    def family_weights(self) -> Floats:
        """Weights of the mean over all families."""
        return self.frame.weights(self.usable, self.correct)

    @cached_property
    def overall(self) -> Rate | None:
        """Success rate over all families, each counting alike."""
        return self.asr.mean(self.family_weights) if self.family_weights.any() else None

    @property
    def complete(self) -> bool:
        """Whether no cell is missing, so that the line can be ranked."""
        return not self.missing

    def seed_overall(self) -> list[float]:
        """Return the success rate over all families for each seed alone."""
        if not self.family_weights.any():
            return []
        weights = self.family_weights / self.family_weights.sum()
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


@dataclass
class Gathered:
    """The lines of a board and everything that did not make it into one, with the reason."""

    lines: list[Line] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def accept(row: Row, frame: Frame) -> None:
    """Raise a UserError saying why, if the row does not belong on the suite's board."""
    suite = frame.suite
    if row.suite != suite.name:
        raise UserError(f"it was made for the suite {row.suite!r}, not {suite.name!r}")
    if row.suite_digest != suite.digest:
        raise UserError(
            f"it was made under suite digest {row.suite_digest[:12]}, not {suite.digest[:12]}: the suite, its models or "
            "its images differ, so the figures cannot be compared; run it again"
        )
    if row.max_level > suite.levels:
        raise UserError(f"its images differ by {row.max_level} levels, more than the budget of {suite.levels}")
    expected = min(row.limit or len(frame.labels), len(frame.labels))
    if row.outcomes and row.images != expected:
        raise UserError(f"it has {row.images} predictions per target where {expected} images were to be scored")


def gather(frame: Frame, rows: Iterable[Row]) -> Gathered:
    """Turn rows into lines, one for each substitute, attack and tier of evidence."""
    if frame.clean.suite_digest != frame.suite.digest:
        raise UserError(
            f"clean.json was made under suite digest {frame.clean.suite_digest[:12]}, not {frame.suite.digest[:12]}; "
            "run the suite again to make it anew"
        )
    gathered = Gathered()
    groups: dict[tuple[str, str, Evidence], list[_Seed]] = defaultdict(list)
    for row in rows:
        try:
            accept(row, frame)
        except UserError as error:
            gathered.refused.append(f"{row.filename}: {error}")
            continue
        groups[row.substitute, row.attack, row.evidence].append(_seed(row, frame, gathered))
    if gathered.refused and not groups:
        raise UserError(f"no row belongs on this board; {gathered.refused[0]}")
    for (substitute, attack, evidence), seeds in groups.items():
        gathered.lines.append(_line(frame, substitute, attack, evidence, seeds, gathered))
    return gathered


@dataclass(frozen=True)
class _Seed:
    """What a line keeps of a row."""

    seed: int
    composition: str
    images: int
    wrong: NDArray[np.uint8]
    missing: dict[str, str]


def _seed(row: Row, frame: Frame, gathered: Gathered) -> _Seed:
    images = row.images or min(row.limit or len(frame.labels), len(frame.labels))
    wrong = np.zeros((len(frame.targets), images), dtype=np.uint8)
    missing: dict[str, str] = {}
    for index, target in enumerate(frame.targets):
        outcome = row.outcomes.get(target)
        if outcome is None:
            missing[target] = row.failures.get(target, NOT_SCORED)
        elif not frame.known[index]:
            missing[target] = "clean.json has no predictions of it"
        else:
            wrong[index] = outcome.adv.array != frame.labels[:images]
            clean = frame.clean.predictions[target]
            if outcome.clean.raw != clean.raw[: len(outcome.clean.raw)]:
                differ = int(np.sum(outcome.clean.array != clean.array[:images]))
                gathered.remarks.append(
                    f"{row.filename}: on {differ} clean images {target} predicts otherwise than in clean.json, whose "
                    "predictions count"
                )
    return _Seed(row.seed, row.composition, images, wrong, missing)


def _line(
    frame: Frame, substitute: str, attack: str, evidence: Evidence, seeds: list[_Seed], gathered: Gathered
) -> Line:
    """Gather the seeds that cover the most images; the others, and those of another composition, are left out by name."""
    name = f"{substitute} x {attack}"
    seeds = sorted(seeds, key=lambda seed: seed.seed)
    most = max(seed.images for seed in seeds)
    composition = next(seed.composition for seed in seeds if seed.images == most)
    kept = [seed for seed in seeds if seed.images == most and seed.composition == composition]
    for seed in seeds:
        if seed.images != most:
            gathered.remarks.append(
                f"{name}, seed {seed.seed}: left out, it has {seed.images} images and others {most}"
            )
        elif seed.composition != composition:
            gathered.remarks.append(f"{name}, seed {seed.seed}: left out, its attack is {seed.composition}")
    numbers = [seed.seed for seed in kept]
    if len(set(numbers)) != len(numbers):
        raise UserError(f"{name}: seed {max(numbers, key=numbers.count)} occurs twice; delete one of the two rows")
    missing: dict[str, str] = {}
    for seed in kept:
        for target, reason in seed.missing.items():
            missing.setdefault(target, reason if len(kept) == 1 else f"{reason} (seed {seed.seed})")
    return Line(
        frame=frame,
        substitute=substitute,
        attack=attack,
        evidence=evidence,
        composition=composition,
        seeds=tuple(numbers),
        images=most,
        wrong=np.stack([seed.wrong for seed in kept]),
        missing=missing,
        seed_missing=tuple(seed.missing for seed in kept),
        whitebox=frame.whitebox(substitute),
    )


def family_means(rates: Rates, frame: Frame, usable: Bools) -> dict[str, Rate | None]:
    """Return the mean of every family over its usable targets."""
    return group_means(rates, list(frame.members.items()), usable)


def group_means(rates: Rates, groups: Sequence[tuple[str, Bools]], usable: Bools) -> dict[str, Rate | None]:
    """Return the mean of every named group of targets over its usable ones; None where it has none."""
    return {title: rates.mean(member & usable) if (member & usable).any() else None for title, member in groups}
