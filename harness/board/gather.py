"""Rows become lines: seeds are gathered, foreign rows refused, missing cells kept with their reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.board.frame import Frame
from harness.board.lines import Line
from harness.records.rows import Cost, Evidence, Row, Size
from zoo.errors import UserError

NOT_SCORED = "not scored"


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
    if row.max_level > suite.budget.levels:
        raise UserError(f"its images differ by {row.max_level} levels, more than the budget of {suite.budget.levels}")
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
    codes: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        try:
            accept(row, frame)
        except UserError as error:
            gathered.refused.append(f"{row.filename}: {error}")
            continue
        groups[row.substitute, row.attack, row.evidence].append(_seed(row, frame, gathered))
        if row.provenance.code is not None:
            codes[row.provenance.code].append(row.filename)
    if gathered.refused and not groups:
        raise UserError(f"no row belongs on this board; {gathered.refused[0]}")
    gathered.remarks += _codes(codes)
    for (substitute, attack, evidence), seeds in groups.items():
        gathered.lines.append(_line(frame, substitute, attack, evidence, seeds, gathered))
    common = np.ones(len(frame.targets), dtype=bool)
    for line in gathered.lines:
        common &= ~line.whitebox
    gathered.lines = [replace(line, common=common) for line in gathered.lines]
    return gathered


def _codes(codes: Mapping[str, Sequence[str]]) -> list[str]:
    """Say where the rows were made by several states of the code; rows from before that was recorded say nothing."""
    if len(codes) < 2:
        return []
    by_count = sorted(codes.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{len(names)} by {code[:12]} (first {min(names)})" for code, names in by_count]
    return [f"the rows were made by {len(codes)} states of the code, whose images may differ: {', '.join(parts)}"]


@dataclass(frozen=True)
class _Seed:
    """What a line keeps of a row."""

    seed: int
    composition: str
    images: int
    wrong: NDArray[np.uint8]
    missing: dict[str, str]
    cost: Cost
    size: Size | None


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
    gathered.remarks += _submitted(row)
    return _Seed(row.seed, row.composition, images, wrong, missing, row.cost, row.size)


def _submitted(row: Row) -> list[str]:
    """Say of a submitted row whether its attack needs its substitute, in figures, and whether a verification disputes it."""
    if row.submission is None:
        return []
    said, controls = [], row.submission.controls
    if controls is not None:
        decoys = " and ".join(f"{100 * rate:.1f} %" for rate in controls.decoys)
        hidden = "" if controls.hidden is None else f", {100 * controls.hidden:.1f} % on images held back"
        said.append(
            f"{row.filename}: controls on {controls.images} images: {100 * controls.success:.1f} % as ranked, "
            f"{100 * controls.noise:.1f} % by noise, {decoys} with decoy substitutes, {100 * controls.moved:.1f} % on images "
            f"moved by one level{hidden}"
        )
    for dispute in row.submission.disputes:
        if dispute.cleared is None:
            said.append(
                f"{row.filename}: disputed: made again, {dispute.differing} of {dispute.predictions} predictions were others"
            )
        else:
            said.append(f"{row.filename}: was disputed; cleared by {dispute.cleared.by}: {dispute.cleared.because}")
    return said


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
        common=~frame.whitebox(substitute),
        costs=tuple(seed.cost for seed in kept),
        sizes=tuple(seed.size for seed in kept if seed.size is not None) if all(seed.size for seed in kept) else (),
    )
