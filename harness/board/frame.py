"""The axes of a board: its targets, their families and bitwidths, and which images count for which target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.board.protocol import SuiteView
from harness.board.statistics import Bools, Floats
from harness.records.rows import Clean


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
    def width_groups(self) -> dict[tuple[int, str], Bools]:
        """Per bitwidth and family, widest first, which targets it has.

        Families stay apart: adversarially trained 32-bit nets are no point on the axis of the quantised ones.
        """
        bits = np.array([self.suite.bits[target] for target in self.targets])
        groups = {
            (int(width), title): member & (bits == width)
            for width in sorted(set(bits.tolist()), reverse=True)
            for title, member in self.members.items()
        }
        return {key: group for key, group in groups.items() if group.any()}

    def widths(self, usable: Bools) -> dict[int, tuple[str, Bools]]:
        """Return per bitwidth, widest first, a family and its usable targets: the axis of a plot.

        Of the families that have usable targets of a bitwidth it is the one that has them at the most bitwidths, so that a
        curve compares bitwidths rather than architectures.
        """
        groups = {key: member & usable for key, member in self.width_groups.items() if (member & usable).any()}
        spread = {title: sum(title == other for _, other in groups) for title in self.members}
        made: dict[int, tuple[str, Bools]] = {}
        for width, title in sorted(groups, key=lambda key: (-key[0], -spread[key[1]])):
            made.setdefault(width, (title, groups[width, title]))
        return made

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
