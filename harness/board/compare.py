"""Figures side by side: what a paper reports and what is measured; one row, suite or version and another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.board.frame import Frame
from harness.board.lines import TIERS, Line
from harness.board.protocol import ReportedView
from harness.board.statistics import Pairing, Rate, difference_of_rates, holm
from harness.board.table import DASH, Table, bounds, p_value, percent, points, with_interval

MEAN = "mean over families"


@dataclass(frozen=True)
class ReportedFigure:
    """A reported figure and what was measured; `reason` says why nothing was."""

    substitute: str
    attack: str
    target: str
    reported: float
    """The paper's figure, as a fraction."""
    error: Rate | None
    """Our error rate over all images, which is what papers call the success rate."""
    asr: Rate | None
    """Our success rate on the images that the target gets right when clean."""
    reason: str

    @property
    def difference(self) -> float | None:
        """Measured error rate minus the reported figure."""
        return None if self.error is None else self.error.value - self.reported

    @property
    def covered(self) -> bool | None:
        """Whether the 95 % interval of our error rate covers the reported figure."""
        return None if self.error is None else self.error.low <= self.reported <= self.error.high


def compare_reported(frame: Frame, lines: Sequence[Line]) -> list[ReportedFigure]:
    """Put every figure that the suite reports beside the measured cell, taken from the best tier of evidence."""
    best = {(line.substitute, line.attack): line for tier in reversed(TIERS) for line in lines if line.evidence == tier}
    made = []
    for figure in frame.suite.reported:
        line = best.get((figure.substitute, figure.attack))
        error, asr, reason = None, None, "no row"
        if figure.target not in frame.targets:
            reason = "no target of the suite"
        elif line is not None:
            alone = np.array([target == figure.target for target in frame.targets], dtype=np.float64)
            error, asr, reason = line.error.mean(alone), line.asr.mean(alone), line.missing.get(figure.target, "")
        made.append(ReportedFigure(figure.substitute, figure.attack, figure.target, figure.asr / 100, error, asr, reason))
    return made


def unmeasured(reported: Iterable[ReportedView]) -> list[ReportedFigure]:
    """Return a paper's figures with nothing beside them, as before the first run."""
    return [ReportedFigure(f.substitute, f.attack, f.target, f.asr / 100, None, None, "no row") for f in reported]


def reported_table(figures: Sequence[ReportedFigure], measured_only: bool = False) -> Table:
    """Return reported beside measured as a table."""
    shown = [figure for figure in figures if figure.error is not None or not measured_only]
    rows = []
    for figure in shown:
        cells = [figure.substitute, figure.attack, figure.target, percent(figure.reported)]
        if figure.error is None or figure.difference is None:
            rows.append([*cells, DASH, DASH, figure.reason, DASH])
        else:
            covered = "yes" if figure.covered else "no"
            asr = with_interval(figure.asr)
            rows.append([*cells, with_interval(figure.error), points(figure.difference), covered, asr])
    measured = [figure for figure in figures if figure.error is not None]
    inside = sum(bool(figure.covered) for figure in measured)
    intro = (
        "Papers report the error rate over all images, so that is compared. Covered: our 95 % interval holds the reported "
        f"figure, whose own sampling error is not known. Measured {len(measured)} of {len(figures)}, covered {inside}."
    )
    headers = ["Substitute", "Attack", "Target", "Reported", "Error rate", "Difference", "Covered", "ASR"]
    return Table("Reported beside measured", intro, headers, rows, 3)


@dataclass(frozen=True)
class TargetComparison:
    """One target, or the mean, of two lines; `reason` says why there is no difference."""

    target: str
    a: Rate | None
    b: Rate | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    """Paired p-value; None where the images cannot be paired."""
    p_holm: float | None
    reason: str


def compare_lines(a: Line, b: Line) -> list[TargetComparison]:
    """Compare the success rates of two lines target by target, and their means over families.

    Cells are paired where both lines saw the same images and the target gets the same ones right when clean. Elsewhere,
    as between versions of a suite with other images or weights, the interval is Newcombe's for independent rates and
    there is no p-value. White-box cells are left out of the mean.
    """
    images = min(a.images, b.images)
    same = (
        a.frame.clean.ids[:images] == b.frame.clean.ids[:images]
        and a.frame.clean.labels.raw[: 2 * images] == b.frame.clean.labels.raw[: 2 * images]
    )
    targets = [target for target in a.frame.targets if target in b.frame.targets]
    at_a = np.array([a.frame.targets.index(target) for target in targets], dtype=np.intp)
    at_b = np.array([b.frame.targets.index(target) for target in targets], dtype=np.intp)
    counted = a.correct[at_a, :images]
    paired = same and bool(np.array_equal(counted, b.correct[at_b, :images]))
    pairing = Pairing(a.share[at_a, :images], b.share[at_b, :images], counted) if paired else None
    usable = a.usable[at_a] & b.usable[at_b]
    made = []
    for place, target in enumerate(targets):
        alone = np.arange(len(targets)) == place
        reason = a.missing.get(target) or b.missing.get(target) or ""
        made.append(_versus(a, b, at_a, at_b, alone, target, None if reason else pairing, reason))
    weights = a.frame.weights(_scatter(usable, at_a, len(a.frame.targets)), a.correct)[at_a]
    if weights.any():
        made.append(_versus(a, b, at_a, at_b, weights, MEAN, pairing, ""))
    tested = [place for place, row in enumerate(made) if row.p is not None]
    for place, p in zip(tested, holm([made[place].p or 0.0 for place in tested]), strict=True):
        made[place] = replace(made[place], p_holm=p)
    return made


def _versus(
    a: Line,
    b: Line,
    at_a: np.ndarray,
    at_b: np.ndarray,
    weights: np.ndarray,
    target: str,
    pairing: Pairing | None,
    reason: str,
) -> TargetComparison:
    first = a.asr.mean(_scatter(weights, at_a, len(a.frame.targets)))
    second = b.asr.mean(_scatter(weights, at_b, len(b.frame.targets)))
    gain = pairing.gain(weights) if pairing else None
    if gain is not None:
        return TargetComparison(target, first, second, gain.value, gain.low, gain.high, gain.p, None, "")
    if reason or first is None or second is None:
        return TargetComparison(target, first, second, None, None, None, None, None, reason or "no data")
    return TargetComparison(target, first, second, *difference_of_rates(first, second), None, None, "")


def _scatter(values: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """Return an array of `size` with the values at their places and zeros elsewhere."""
    made = np.zeros(size, dtype=values.dtype)
    made[places] = values
    return made


def comparison_table(a: Line, b: Line, rows: Sequence[TargetComparison]) -> Table:
    """Return the comparison of two lines as a table."""
    cells = []
    for row in rows:
        figures = [with_interval(rate) if rate else DASH for rate in (row.a, row.b)]
        if row.difference is None or row.low is None or row.high is None:
            cells.append([row.target, *figures, row.reason, DASH, DASH, DASH])
            continue
        tests = [DASH if p is None else p_value(p) for p in (row.p, row.p_holm)]
        cells.append([row.target, *figures, points(row.difference), bounds(row.low, row.high), *tests])
    paired = any(row.p is not None for row in rows)
    how = "paired over images" if paired else "not paired: the images, or what is right when clean, differ"
    intro = f"A: {_label(a)}. B: {_label(b)}. Success rates in percent; A - B in percentage points, {how}."
    return Table("A against B", intro, ["Target", "A", "B", "A - B", "95 % interval", "p", "p (Holm)"], cells, 1)


def _label(line: Line) -> str:
    seeds = ", ".join(str(seed) for seed in line.seeds)
    suite = f"{line.frame.suite.name} v{line.frame.suite.version}"
    return f"{line.substitute} x {line.attack}, seed {seeds}, {line.evidence}, {suite}"


def compare_boards(a: Sequence[Line], b: Sequence[Line]) -> Table:
    """Compare the means of all lines that two boards share, such as two versions of a suite; Holm's p is over these lines."""
    others = {(line.substitute, line.attack, line.evidence): line for line in b}
    shared = [line for line in a if (line.substitute, line.attack, line.evidence) in others]
    shared.sort(key=lambda line: (line.attack, line.substitute, line.evidence))
    pairs = [(line, others[line.substitute, line.attack, line.evidence]) for line in shared]
    means = [[row for row in compare_lines(*pair) if row.target == MEAN] for pair in pairs]
    adjusted = iter(holm([row.p for rows in means for row in rows if row.p is not None]))
    cells, intro = [], "The boards share no line."
    for (line, other), rows in zip(pairs, means, strict=True):
        alone = [replace(row, p_holm=None if row.p is None else next(adjusted)) for row in rows]
        table = comparison_table(line, other, alone)
        cells += [[line.substitute, line.attack, line.evidence, *row[1:]] for row in table.rows]
        first, second = (f"{each.frame.suite.name} v{each.frame.suite.version}" for each in (line, other))
        intro = (
            f"A: {first}. B: {second}. Mean success rates over families in percent; A - B in percentage points. "
            f"p (Holm) is adjusted over these {len(pairs)} lines."
        )
    headers = ["Substitute", "Attack", "Evidence", "A", "B", "A - B", "95 % interval", "p", "p (Holm)"]
    return Table("A against B", intro, headers, cells, 3)
