"""What a network loses between the lab and the device: an integer target beside the networks of its registry line.

"Right in the lab, wrong on the device": of the images that the full-precision network gets right, clean or adversarial, the
share that its integer network in the engine gets wrong. A flip is an image for which the engine predicts another class than the
fake-quantised network that it was made of, right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from harness.board.frame import Frame
from harness.board.lines import Line
from harness.board.protocol import DeploymentView
from harness.board.statistics import Bools, Floats, Rate
from harness.board.table import DASH, Table, with_interval
from harness.records.rows import Row
from zoo.intervals import wilson

Kind = Literal["gap", "flips"]
TITLES: dict[Kind, str] = {
    "gap": "Right in the lab, wrong on the device",
    "flips": "Flips between the engine and fake quantisation",
}


@dataclass(frozen=True)
class Gap:
    """One figure of a pair: a gap over the images that `other` gets right, or flips over all images.

    `line` is null on clean images.
    """

    kind: Kind
    target: str
    other: str
    line: Line | None
    rate: Rate | None
    whitebox: bool = False


def share(hit: ArrayLike, counted: ArrayLike) -> Rate | None:
    """Return the share of counted cells that are hit, with a 95 % interval whose sampling unit is the image; None without any.

    hit, counted: (seeds, images), hit only where counted. The ratio r = sum_i x_i / sum_i c_i of an image's means over seeds
    has the linearised variance sum_i (x_i - r c_i)^2 / (sum_i c_i)^2; the interval is Wilson's with n* = r (1 - r) / variance,
    at most the number of counted cells. For one seed it is Wilson's interval itself.
    """
    cells: Bools = np.atleast_2d(np.asarray(counted, dtype=bool))
    hits: Bools = np.atleast_2d(np.asarray(hit, dtype=bool)) & cells
    x: Floats = hits.mean(axis=0, dtype=np.float64)
    c: Floats = cells.mean(axis=0, dtype=np.float64)
    total = float(c.sum())
    if not total:
        return None
    value = float(x.sum()) / total
    variance = float(np.sum((x - value * c) ** 2)) / total**2
    size = total if variance <= 0 else min(value * (1 - value) / variance, float(cells.sum()))
    return Rate(value, *wilson(value * size, size), int(np.count_nonzero(c)))


def gaps(frame: Frame, lines: Iterable[Line], rows: Iterable[Row]) -> list[Gap]:
    """Return every figure of every pair of targets that the suite states; none where it states no pair."""
    pairs = [(kind, target, other) for target, known in frame.suite.deployed.items() for kind, other in _others(known)]
    if not pairs:
        return []
    places = {target: place for place, target in enumerate(frame.targets)}
    made: list[Gap] = []
    for kind, target, other in pairs:
        if target in frame.clean.predictions and other in frame.clean.predictions:
            mine, theirs = (frame.clean.predictions[name].array for name in (target, other))
            made.append(Gap(kind, target, other, None, _rate(kind, mine, theirs, frame.labels)))
    by_line: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_line.setdefault((row.substitute, row.attack, row.evidence), []).append(row)
    for line in lines:
        kept = _rows_of(line, by_line.get((line.substitute, line.attack, line.evidence), []))
        for kind, target, other in pairs:
            rate = None
            if kept and all(name in row.outcomes for row in kept for name in (target, other)):
                mine, theirs = (np.stack([row.outcomes[name].adv.array for row in kept]) for name in (target, other))
                rate = _rate(kind, mine, theirs, frame.labels[: line.images])
            whitebox = bool(line.whitebox[places[target]] or line.whitebox[places[other]])
            made.append(Gap(kind, target, other, line, rate, whitebox))
    return made


def _others(known: DeploymentView) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    if known.precise is not None:
        found.append(("gap", known.precise))
    if known.emulated is not None:
        found.append(("flips", known.emulated))
    return found


def _rows_of(line: Line, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that a line was gathered from."""
    kept = [r for r in rows if r.seed in line.seeds and r.images == line.images and r.composition == line.composition]
    return kept if len(kept) == len(line.seeds) else []


def _rate(kind: Kind, mine: ArrayLike, theirs: ArrayLike, labels: ArrayLike) -> Rate | None:
    mine, theirs = np.atleast_2d(np.asarray(mine)), np.atleast_2d(np.asarray(theirs))
    if kind == "flips":
        return share(mine != theirs, np.ones_like(mine, dtype=bool))
    return share(mine != np.asarray(labels), theirs == np.asarray(labels))


def tables(
    found: Sequence[Gap], lines: Sequence[Line], named: Sequence[Sequence[str]], names: Sequence[str]
) -> list[Table]:
    """Return a table of gaps and one of flips, each where there are any: clean images first, then the lines in their order.

    named: How a table names each line, in columns called `names`.
    """
    made = []
    for kind, title in TITLES.items():
        chosen = [gap for gap in found if gap.kind == kind]
        pairs = list(dict.fromkeys((gap.target, gap.other) for gap in chosen))
        if not pairs:
            continue
        cells = {(gap.target, gap.other, id(gap.line)): gap for gap in chosen}
        rows = [["clean images", *[""] * (len(names) - 1), *(_cell(cells.get((*pair, id(None)))) for pair in pairs)]]
        for line, words in zip(lines, named, strict=True):
            rows.append([*words, *(_cell(cells.get((*pair, id(line)))) for pair in pairs)])
        headers = [f"{target} of {other}" for target, other in pairs]
        made.append(Table(title, INTROS[kind], [*names, *headers], rows, len(names)))
    return made


INTROS: dict[Kind, str] = {
    "gap": "In percent, ± half the 95 % interval: of the images that the full-precision network still gets right, those that its "
    "integer network in the engine gets wrong. * the substitute is white-box for one of the two.",
    "flips": "In percent of all images, ± half the 95 % interval: the engine predicts another class than the fake-quantised "
    "network. * the substitute is white-box for one of the two.",
}


def _cell(gap: Gap | None) -> str:
    if gap is None or gap.rate is None:
        return DASH
    return with_interval(gap.rate) + ("*" if gap.whitebox else "")
