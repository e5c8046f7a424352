"""What a board's page shows, as plain data: its lines under every choice of targets, its gains, and the paper's figures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.board import Board
from harness.board.compare import compare_reported
from harness.board.deployment import INTROS, TITLES
from harness.board.gains import ALL
from harness.board.groups import Groups, groups
from harness.board.lines import TIERS, Line
from harness.board.plots.cost import front
from harness.board.site.catalogue import attacks
from harness.board.statistics import Bools, Floats, Rate
from harness.board.tables import ranked
from harness.records.pinned import PinnedSuite
from harness.records.rows import Row
from zoo.errors import UserError
from zoo.registry.registry import Registry

GROUPED = 200
"""Boards of more lines have groups for the common targets alone."""
COMMON = "common"
OWN = "attack of one's own"


@dataclass(frozen=True)
class Scope:
    """A choice of targets: the common ones, a family, or a bitwidth of a family."""

    key: str
    title: str
    kind: str
    members: Bools


@dataclass(frozen=True)
class View:
    """A board with its rows, where it came from, and where its page goes."""

    board: Board
    rows: tuple[Row, ...]
    pinned: PinnedSuite
    folder: Path
    registry: Registry

    @property
    def version(self) -> str:
        """Name of the folder: v2, or v2-limit50 for a trial."""
        return self.folder.name

    @property
    def place(self) -> str:
        """Folder of the board's pages within the site."""
        return f"boards/{self.board.suite.name}/{self.version}"

    @property
    def trial(self) -> bool:
        """Whether only the first images of the suite were run."""
        return "-limit" in self.version

    @property
    def precision(self) -> str:
        """How its rows were computed where that was not exact; empty otherwise."""
        return ", ".join(dict.fromkeys(row.provenance.precision for row in self.rows if row.provenance.precision))

    @property
    def whole(self) -> bool:
        """Whether it is the suite's own board: all images, exactly computed."""
        return not self.trial and not self.precision

    @cached_property
    def lines(self) -> list[Line]:
        """The lines, tier by tier, best first."""
        return [line for tier in TIERS for _, line in ranked([x for x in self.board.lines if x.evidence == tier])]

    @property
    def deployment(self) -> list[dict[str, Any]]:
        """The sections on integer networks in engines: gaps and flips, each where there are any."""
        known = {kind: [gap for gap in self.board.gaps if gap.kind == kind and gap.rate is not None] for kind in TITLES}
        return [{"kind": k, "title": TITLES[k], "intro": INTROS[k], "gaps": found} for k, found in known.items() if found]

    @cached_property
    def rows_of(self) -> dict[tuple[str, str, str], list[Row]]:
        """Per line, its rows that the board took in, by seed."""
        found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
        for row in sorted(self.rows, key=lambda row: row.seed):
            if row.suite_digest == self.pinned.digest:
                found[row.substitute, row.attack, row.evidence].append(row)
        return found

    @cached_property
    def scopes(self) -> list[Scope]:
        """The choices of targets; where a choice has targets that are black-box for every line, only those count."""
        frame = self.board.frame
        common = self.lines[0].common if self.lines else np.ones(len(frame.targets), dtype=bool)
        made = [Scope(COMMON, "All families, common targets", "all", common)]
        for title, member in frame.members.items():
            made.append(Scope(f"family:{title}", title, "family", _shared(member, common)))
        for (bits, family), member in frame.width_groups.items():
            title = f"{bits} bit" if _only(frame.width_groups, bits) else f"{bits} bit, {family}"
            made.append(Scope(f"bits:{bits}:{family}", title, "bitwidth", _shared(member, common)))
        return made

    def weights(self, scope: Scope, line: Line | None = None) -> Floats:
        """Return the weights of a choice's targets: families alike for the common ones, targets alike within a family."""
        usable = scope.members if line is None else scope.members & line.usable
        frame = self.board.frame
        return frame.weights(usable, frame.correct) if scope.key == COMMON else usable.astype(np.float64)

    @cached_property
    def groups(self) -> dict[tuple[str, str], Groups]:
        """Per scope and tier, which lines do not differ."""
        made: dict[tuple[str, str], Groups] = {}
        for scope in self.scopes:
            if scope.key == COMMON or len(self.lines) <= GROUPED:
                for tier in TIERS:
                    chosen = [line for line in self.lines if line.evidence == tier]
                    if chosen:
                        made[scope.key, tier] = groups(chosen, self.weights(scope))
        return made

    def models_of(self, substitute: str) -> tuple[str, ...]:
        """Return the registry's models that a substitute is made of."""
        try:
            return self.pinned.suite.substitute(substitute).models
        except UserError:
            return (substitute,)

    def is_qaa(self, substitute: str) -> bool:
        """Whether a substitute alternates its states while it is attacked, by the suite or by the registry."""
        spec = next((s for s in self.pinned.suite.substitutes if s.name == substitute), None)
        if spec is not None and spec.states is not None:
            return len(spec.states) > 1
        entries = [self.registry[m] for m in self.models_of(substitute) if m in self.registry]
        return any(e.alternation is not None and len(e.alternation.states) > 1 for e in entries)

    def bits_of(self, substitute: str) -> str:
        """Return the weight bitwidths of a substitute's models, such as 2 or 32+2."""
        known = self.pinned.models
        widths = dict.fromkeys(str(known[m].w_bits) for m in self.models_of(substitute) if m in known)
        return "+".join(widths) or "unknown"

    def page_of(self, line: Line) -> str:
        """Return the name of a line's page."""
        tier = "" if line.evidence == "regenerated" else f"--{line.evidence}"
        return f"{line.substitute}--{line.attack}{tier}.html"

    def entries(self) -> list[dict[str, Any]]:
        """Return what the table shows of each line: facts to filter by, and its rates in every scope."""
        best = self._front()
        made = []
        counters: dict[str, int] = defaultdict(int)
        most = max((line.images for line in self.lines), default=0)
        for place, line in enumerate(self.lines):
            inside = counters[line.evidence]
            counters[line.evidence] += 1
            described = attacks().get(line.attack)
            rows = self.rows_of[line.substitute, line.attack, line.evidence]
            made.append(
                {
                    "attack": line.attack,
                    "category": described.category if described else OWN,
                    "substitute": line.substitute,
                    "page": f"rows/{self.page_of(line)}",
                    "qaa": "QAA" if self.is_qaa(line.substitute) else "",
                    "bits": self.bits_of(line.substitute),
                    "evidence": line.evidence,
                    "precision": ", ".join(dict.fromkeys(row.provenance.precision or "exact" for row in rows)),
                    "authors": ", ".join(dict.fromkeys(a for row in rows if row.submission for a in row.submission.authors)),
                    "gradients": line.gradients,
                    "seconds": None if line.seconds is None else float(f"{line.seconds:.3g}"),
                    "l2": None if line.size is None else round(line.size.l2, 3),
                    "ssim": None if line.size is None else round(line.size.ssim, 4),
                    "front": place in best,
                    "ranked": line.ranked and line.images == most,
                    "gain": self._overall_gains.get((line.substitute, line.attack, line.evidence)),
                    "scopes": {scope.key: self._rates(scope, line, inside) for scope in self.scopes},
                }
            )
        return made

    def _rates(self, scope: Scope, line: Line, place: int) -> list[Any]:
        """Return [ASR, error rate, group, whole]: each rate as [value, low, high] in percent, or null."""
        weights = self.weights(scope, line)
        there = bool(weights.any())
        asr, error = (rates.mean(weights) if there else None for rates in (line.asr, line.error))
        found = self.groups.get((scope.key, line.evidence))
        whole = bool(line.usable[scope.members].all())
        return [in_percent(asr), in_percent(error), found.label(place) if found else "", whole]

    @cached_property
    def _overall_gains(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """Per line, its gain over its first baseline, over all families."""
        made: dict[tuple[str, str, str], dict[str, Any]] = {}
        for g in self.board.gains:
            if g.role == "baseline" and (g.family == ALL or len(self.board.frame.members) == 1):
                said = {"value": round(100 * g.gain.value, 2), "p": float(f"{g.p_holm:.3g}"), "against": g.against}
                made.setdefault((g.substitute, g.attack, g.evidence), said)
        return made

    def _front(self) -> set[int]:
        there = [i for i, line in enumerate(self.lines) if line.gradients is not None and line.overall is not None]
        points = [(float(self.lines[i].gradients or 0), line.value) for i in there if (line := self.lines[i].overall)]
        return {there[i] for i in front(points)}

    @cached_property
    def gains_of(self) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
        """Per line, its gains."""
        found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
        for gain in self.gains:
            found[gain["substitute"], gain["attack"], gain["evidence"]].append(gain)
        return found

    @cached_property
    def gains(self) -> list[dict[str, Any]]:
        """Every gain of the board, in percentage points."""
        return [
            {
                "substitute": g.substitute,
                "against": g.against,
                "role": g.role,
                "attack": g.attack,
                "family": g.family,
                "evidence": g.evidence,
                "value": 100 * g.gain.value,
                "low": 100 * g.gain.low,
                "high": 100 * g.gain.high,
                "p": g.p_holm,
                "n": g.gain.n,
            }
            for g in self.board.gains
        ]

    @cached_property
    def reported(self) -> list[dict[str, Any]]:
        """The paper's figures beside ours, where we have measured them."""
        return [
            {
                "substitute": f.substitute,
                "attack": f.attack,
                "target": f.target,
                "reported": 100 * f.reported,
                "error": in_percent(f.error),
                "asr": in_percent(f.asr),
                "difference": None if f.difference is None else 100 * f.difference,
            }
            for f in compare_reported(self.board.frame, self.board.lines)
            if f.error is not None
        ]


def in_percent(rate: Rate | None) -> list[float] | None:
    """Return a rate as [value, low, high] in percent with two decimals."""
    return None if rate is None else [round(100 * x, 2) for x in (rate.value, rate.low, rate.high)]


def _shared(member: Bools, common: Bools) -> Bools:
    return member & common if (member & common).any() else member


def _only(groups: dict[tuple[int, str], Bools], bits: int) -> bool:
    return sum(width == bits for width, _ in groups) == 1
