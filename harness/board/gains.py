"""What QAA adds: each pair's substitute against its baseline and its controls, paired over images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harness.board.frame import Frame
from harness.board.lines import Line
from harness.board.statistics import Gain, Pairing, holm
from harness.records.rows import Evidence

ALL = "all families"
Role = Literal["baseline", "control"]


@dataclass(frozen=True)
class GainRow:
    """The gain of a substitute over another under one attack, on one family of targets."""

    substitute: str
    attack: str
    evidence: Evidence
    against: str
    role: Role
    against_evidence: Evidence
    family: str
    gain: Gain
    p_holm: float
    """Adjusted by Holm over as many tests as `tests` says: gains over all families, or those of single families."""
    targets: int
    """Targets that are black-box for both and scored for both."""
    tests: int = 1
    """Gains that were adjusted together."""


def gains(frame: Frame, lines: Iterable[Line], mixed: bool = False) -> tuple[list[GainRow], list[str]]:
    """Return every gain that the suite's pairs ask for, Holm-adjusted, and the reasons for those left out.

    Lines are compared within their tier of evidence; with `mixed` also with the best tier that the other one has.
    """
    index: dict[tuple[str, str], dict[Evidence, Line]] = {}
    for line in lines:
        index.setdefault((line.substitute, line.attack), {})[line.evidence] = line
    rows: list[GainRow] = []
    left_out: list[str] = []
    for pair in frame.suite.pairs:
        others: list[tuple[Role, str]] = [("baseline", pair.baseline), *(("control", name) for name in pair.controls)]
        for (substitute, attack), tiers in index.items():
            if substitute != pair.substitute:
                continue
            for role, other in others:
                for line in tiers.values():
                    against = _counterpart(index.get((other, attack), {}), line.evidence, mixed)
                    name = f"{substitute} against {other}, {attack}"
                    if against is None:
                        left_out.append(f"{name}: no gain, {other} has no {line.evidence} row of that attack")
                    elif against.composition != line.composition:
                        left_out.append(f"{name}: no gain, the two attacks differ in their settings")
                    else:
                        rows += _compare(frame, line, against, role)
    return _adjusted(rows), left_out


def _adjusted(rows: list[GainRow]) -> list[GainRow]:
    """Adjust the gains over all families among themselves and those of single families among themselves.

    A gain over all is a mean of its families' gains, so that one family of tests of both would count each question twice.
    """
    made = list(rows)
    for overall in (True, False):
        places = [place for place, row in enumerate(rows) if (row.family == ALL) == overall]
        for place, p in zip(places, holm([rows[place].gain.p for place in places]), strict=True):
            made[place] = replace(rows[place], p_holm=p, tests=len(places))
    return made


def _counterpart(tiers: dict[Evidence, Line], evidence: Evidence, mixed: bool) -> Line | None:
    order: tuple[Evidence, ...] = (evidence, "regenerated", "rescored", "claimed") if mixed else (evidence,)
    return next((tiers[tier] for tier in order if tier in tiers), None)


def _compare(frame: Frame, line: Line, against: Line, role: Role) -> list[GainRow]:
    """Compare two lines on the images and targets that both have; families without such a target are left out."""
    images = min(line.images, against.images)
    usable = line.usable & against.usable
    correct = frame.correct[:, :images]
    pairing = Pairing(line.share[:, :images], against.share[:, :images], correct & usable[:, None])
    groups = [(title, (member & usable).astype(np.float64)) for title, member in frame.members.items()]
    if len(groups) > 1:
        groups.insert(0, (ALL, frame.weights(usable, correct)))
    rows = []
    for title, weights in groups:
        gain = pairing.gain(weights) if weights.any() else None
        if gain is not None:
            rows.append(
                GainRow(
                    substitute=line.substitute,
                    attack=line.attack,
                    evidence=line.evidence,
                    against=against.substitute,
                    role=role,
                    against_evidence=against.evidence,
                    family=title,
                    gain=gain,
                    p_holm=1.0,
                    targets=int(np.count_nonzero(weights)),
                )
            )
    return rows
