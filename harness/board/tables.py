"""The tables of a board: success rates, gains, bitwidths, errors and every target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from harness.board import deployment
from harness.board.deployment import Gap
from harness.board.frame import Frame
from harness.board.gains import ALL, GainRow
from harness.board.lines import TIERS, Line
from harness.board.statistics import Bools, Floats, spread
from harness.board.table import DASH, NO_DATA, Table, bounds, p_value, percent, points, with_interval
from harness.records.rows import Absent, Evidence

PARTIAL = "†"
UNKNOWN = "?"
WHITEBOX = "*"
DIFFERING = "‡"


@dataclass
class Reasons:
    """Numbers the distinct reasons for missing cells in the order of their appearance."""

    numbers: dict[str, int] = field(default_factory=dict)

    def mark(self, reason: str) -> str:
        """Return the dash that stands for a missing cell, with the number of its reason."""
        return f"{DASH} ({self.numbers.setdefault(reason, len(self.numbers) + 1)})"


def ranked(lines: Iterable[Line]) -> list[tuple[int | None, Line]]:
    """Return lines by falling success rate over the common targets, with a rank for those that were measured in full.

    Equal rates share a rank. Lines that miss a common target, or have fewer images than others, come last, unranked.
    """
    lines = list(lines)
    most = max((line.images for line in lines), default=0)

    def key(line: Line) -> tuple[bool, float, str, str]:
        full = line.ranked and line.images == most
        rate = line.overall or line.own
        return (not full, -(rate.value if rate else 0.0), line.attack, line.substitute)

    placed: list[tuple[int | None, Line]] = []
    for place, line in enumerate(sorted(lines, key=key), start=1):
        if key(line)[0]:
            placed.append((None, line))
        elif placed and placed[-1][0] is not None and key(placed[-1][1])[1] == key(line)[1]:
            placed.append((placed[-1][0], line))
        else:
            placed.append((place, line))
    return placed


@dataclass(frozen=True)
class Tables:
    """Makes the tables of one board."""

    frame: Frame
    lines: Sequence[Line]
    gains: Sequence[GainRow]
    absent: Sequence[Absent]
    reasons: Reasons
    mixed: bool

    @cached_property
    def tiers(self) -> list[Evidence]:
        """Tiers of evidence that occur, best first."""
        there = {line.evidence for line in self.lines}
        return [tier for tier in TIERS if tier in there]

    @property
    def several(self) -> bool:
        """Whether there is more than one family."""
        return len(self.frame.members) > 1

    @cached_property
    def alike(self) -> bool:
        """Whether the same targets are black-box for every line."""
        return all(bool((line.common == ~line.whitebox).all()) for line in self.lines)

    @property
    def summary(self) -> str:
        """Header of the column that ranks, empty where the only family's column does."""
        return ("All families" if self.several else "") if self.alike else "Common targets"

    def rankings(self) -> list[Table]:
        """One table of success rates for each tier of evidence, or one for all where they are to be mixed."""
        if self.mixed or len(self.tiers) < 2:
            return [self._ranking("Attack success rate", self.lines, self.absent)]
        return [
            self._ranking(
                f"Attack success rate: {tier}",
                [line for line in self.lines if line.evidence == tier],
                self.absent if place == 0 else (),
            )
            for place, tier in enumerate(self.tiers)
        ]

    def _ranking(self, title: str, lines: Sequence[Line], absent: Sequence[Absent]) -> Table:
        several_tiers = len({line.evidence for line in lines}) > 1
        several_seeds = any(len(line.seeds) > 1 for line in lines)
        several_sizes = len({line.images for line in lines}) > 1
        headers = ["#", "Substitute", "Attack"] + ["Evidence"] * several_tiers
        left = len(headers)
        headers += ["Images"] * several_sizes + ["Seeds"] * several_seeds + [self.summary] * bool(self.summary)
        rows = []
        for rank, line in ranked(lines):
            row = [DASH if rank is None else str(rank), line.substitute, line.attack]
            row += [line.evidence] * several_tiers + [str(line.images)] * several_sizes
            row += [_seeds(line)] * several_seeds
            row += [self._mean(line, line.common, line.common_weights)] * bool(self.summary)
            row += [self._mean(line, member) for member in self.frame.members.values()]
            rows.append(row)
        for entry in absent:
            blank = [DASH] * (len(headers) - 3 - bool(self.summary))
            mark = [self.reasons.mark(entry.reason)] * (bool(self.summary) + len(self.frame.members))
            rows.append([DASH, entry.substitute, entry.attack, *blank, *mark])
        intro = "In percent, ± half the 95 % interval; means over the black-box targets of each family."
        if len(self.tiers) > 1 and not several_tiers and lines:
            intro = f"Evidence: {TIERS[lines[0].evidence]}. {intro}"
        return Table(title, intro, headers + self._marked(lines), rows, left)

    def _marked(self, lines: Sequence[Line]) -> list[str]:
        """Return the families as headers, with a mark where lines are averaged over different targets of one."""
        titles = []
        for title, member in self.frame.members.items():
            taken = {tuple(member & ~line.whitebox) for line in lines}
            titles.append(f"{title} {DIFFERING}" if len(taken) > 1 else title)
        return titles

    def _mean(self, line: Line, member: Bools, weights: Floats | None = None) -> str:
        """Return a mean over targets as text: with a mark when cells are missing, a dash when nothing is left."""
        usable = member & line.usable
        gaps = [
            line.missing[target]
            for target, inside, known in zip(self.frame.targets, member & ~line.whitebox, line.measured, strict=True)
            if inside and not known
        ]
        if not usable.any():
            return self.reasons.mark(gaps[0]) if gaps else DASH + WHITEBOX
        rate = line.asr.mean(usable if weights is None else weights)
        return with_interval(rate) + (f" {PARTIAL}" if gaps else "")

    def gain_table(self, families: bool) -> Table | None:
        """Return the table of gains, of each family or only over all; None where the suite asks for none."""
        if not self.gains:
            return None
        shown = self.gains if families or not self.several else [row for row in self.gains if row.family == ALL]
        several_tiers = len(self.tiers) > 1
        rows = []
        for row in shown:
            gain = row.gain
            cells = [row.substitute, row.attack] + [row.evidence] * several_tiers
            other = row.against_evidence if row.against_evidence != row.evidence else ""
            cells += [f"{row.against} ({row.role}{', ' + other if other else ''})"]
            cells += [row.family] * (families and self.several)
            cells += [points(gain.value), bounds(gain.low, gain.high)]
            rows.append([*cells, p_value(gain.p), p_value(row.p_holm)])
        headers = ["Substitute", "Attack"] + ["Evidence"] * several_tiers + ["Against"]
        headers += ["Targets"] * (families and self.several)
        numbers = ["Gain", "95 % interval", "p", "p (Holm)"]
        intro = (
            "Difference of success rates in percentage points, paired over images; above 0 the substitute is better. "
            "Each line takes the targets that are black-box for its two substitutes, so it need not be the difference of two "
            f"lines above. {adjustment(self.gains)}"
        )
        return Table("QAA gain", intro, headers + numbers, rows, len(headers))

    def bit_table(self) -> Table | None:
        """Return success rates by the bitwidth of the target; None where there is only one."""
        groups = self.frame.width_groups
        widths = [width for width, _ in groups]
        if len(set(widths)) < 2:
            return None
        headers = [f"{w} bit, {family}" if widths.count(w) > 1 else f"{w} bit" for w, family in groups]
        rows = [
            self._named(line) + [self._mean(line, member) for member in groups.values()] for line in self._ordered()
        ]
        intro = "Success rate in percent by the weight bitwidth of the target; means over black-box targets."
        return Table("By bitwidth of the target", intro, self._names() + headers, rows, len(self._names()))

    def error_table(self) -> Table:
        """Return error rates over all images, each with the clean error that a do-nothing attack would score."""
        rows = []
        for line in self._ordered():
            cells = []
            for member in self.frame.members.values():
                usable = member & line.usable
                rate = line.error.mean(usable) if usable.any() else None
                floor = float(line.clean_error[usable].mean()) if usable.any() else 0.0
                cells.append(f"{percent(rate.value)} / {percent(floor)}" if rate else DASH)
            rows.append(self._named(line) + cells)
        intro = "In percent over all images: wrong on adversarial / wrong on clean images, on the same targets."
        return Table(
            "Error rate and clean error", intro, self._names() + list(self.frame.members), rows, len(self._names())
        )

    def cost_table(self) -> Table | None:
        """Return what each line costs and how large its perturbations are; None where no row says how large they are."""
        if not any(line.size for line in self.lines):
            return None
        steps = self.frame.suite.steps
        cheap = {id(line): rank for rank, line in ranked(self.lines) if line.gradients is not None and line.gradients <= steps}
        places = {rank: place for place, rank in enumerate(sorted({r for r in cheap.values() if r is not None}), start=1)}
        rows = []
        for line in self._ordered():
            rank = cheap.get(id(line))
            cells = [
                UNKNOWN if line.gradients is None else str(line.gradients),
                UNKNOWN if line.seconds is None else f"{line.seconds:.2g}",
                UNKNOWN if line.size is None else f"{line.size.l2:.3f}",
                UNKNOWN if line.size is None else f"{line.size.ssim:.4f}",
                DASH if rank is None else str(places[rank]),
            ]
            rows.append(self._named(line) + cells)
        headers = ["Gradients", "Seconds", "L2", "SSIM", f"# within {steps} gradients"]
        intro = (
            "Per image: backward passes of the substitute, seconds of crafting on the device of the row, the L2 norm of the "
            "perturbation in [0, 1] pixel units, structural similarity. "
            f"The last column ranks lines of at most {steps} gradients."
        )
        return Table("Cost and size", intro, self._names() + headers, rows, len(self._names()))

    def deployment_tables(self, found: Sequence[Gap]) -> list[Table]:
        """Return what integer networks lose on the device, and where they differ from fake quantisation; none without pairs."""
        lines = self._ordered()
        return deployment.tables(found, lines, [self._named(line) for line in lines], self._names())

    def cell_tables(self) -> list[Table]:
        """Return for each family the success rate on every target."""
        made = []
        for title, targets in self.frame.suite.families.items():
            places = [self.frame.targets.index(target) for target in targets]
            rows = [self._named(line) + [self._cell(line, place) for place in places] for line in self._ordered()]
            made.append(Table(title, "", self._names() + list(targets), rows, len(self._names())))
        return made

    def _cell(self, line: Line, place: int) -> str:
        target = self.frame.targets[place]
        if target in line.missing:
            return self.reasons.mark(line.missing[target])
        if not line.asr.n[place]:
            return NO_DATA
        return percent(float(line.asr.value[place])) + (WHITEBOX if line.whitebox[place] else "")

    def _ordered(self) -> list[Line]:
        """Lines by attack and substitute, so that what is compared stands together."""
        tiers = list(TIERS)
        return sorted(self.lines, key=lambda line: (tiers.index(line.evidence), line.attack, line.substitute))

    def _names(self) -> list[str]:
        return ["Attack", "Substitute"] + ["Evidence"] * (len(self.tiers) > 1)

    def _named(self, line: Line) -> list[str]:
        return [line.attack, line.substitute] + [line.evidence] * (len(self.tiers) > 1)


def _seeds(line: Line) -> str:
    over = spread(line.seed_overall())
    return f"{len(line.seeds)} (SD {percent(over.sd)})" if over else str(len(line.seeds))


def adjustment(gains: Iterable[GainRow]) -> str:
    """Say over how many tests the p-values of gains were adjusted."""
    counts = {(row.family == ALL): row.tests for row in gains}
    parts = [f"{counts[True]} gains over all families"] * (True in counts)
    parts += [f"{counts[False]} gains of single families"] * (False in counts)
    return f"p (Holm) is adjusted over {', and apart from them over '.join(parts)}."
