"""Success rate against the bitwidth of the target, one panel for each attack and pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.board.lines import Line
from harness.board.plots.style import Axes, Choice, Figure, canvas, distinct, look, title
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board import Board
    from harness.board.protocol import PairView

PANELS = 6
"""Attacks that one picture shows at most: those with the most lines, and of these the strongest."""


def draw(board: Board, choice: Choice) -> Figure:
    """Return the picture: each pair's substitute, its baseline and its controls over the bitwidths of the targets.

    Points are means over the targets of one bitwidth that are black-box for every line of the panel, of the family that has
    the most bitwidths (`Frame.widths`); bars are 95 % intervals over images. Lines differ in colour, marker and dash.

    Raises:
        UserError: the suite has no pair with rows.
    """
    lines = choice.lines(board)
    index = {(line.substitute, line.attack): line for line in reversed(lines)}
    pairs = [pair for pair in board.suite.pairs if any(pair.substitute == line.substitute for line in lines)]
    if not pairs:
        raise UserError(f"suite {board.suite.name} has no pair with rows to draw over bitwidths")
    names = distinct([name for pair in pairs for name in (pair.substitute, pair.baseline, *pair.controls)])
    attacks = distinct([line.attack for line in lines if line.substitute in names])
    attacks.sort(key=lambda attack: -sum((name, attack) in index for name in names))
    attacks = attacks[:PANELS]
    rows, columns = len(pairs), len(attacks)
    figure, axes = canvas(2.6 * columns + 2.6, 2.5 * rows + 0.6, rows, columns, sharey=True)
    for row, pair in enumerate(pairs):
        for column, attack in enumerate(attacks):
            _panel(axes[row][column], board, pair, attack, index)
        axes[row][0].set_ylabel("ASR (%)")
        handles, labels = max((axis.get_legend_handles_labels() for axis in axes[row]), key=lambda found: len(found[1]))
        axes[row][-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=3.2)
    for axis in axes[-1]:
        axis.set_xlabel("bits of the target")
    figure.suptitle(title(board, "ASR against the bitwidth of the target, 95 % intervals over images"), fontsize=9.5)
    return figure


def _panel(axis: Axes, board: Board, pair: PairView, attack: str, index: dict[tuple[str, str], Line]) -> None:
    names = [pair.substitute, pair.baseline, *pair.controls]
    lines = [index[name, attack] for name in names if (name, attack) in index]
    groups = board.frame.widths(np.logical_and.reduce([line.usable for line in lines])) if lines else {}
    shared = list(groups)
    for place, name in enumerate(names):
        if (name, attack) not in index:
            continue
        means = [rate for _, members in groups.values() if (rate := index[name, attack].asr.mean(members)) is not None]
        xs = [at + 0.07 * (place - len(names) / 2) for at in range(len(shared))]
        values = [100 * rate.value for rate in means]
        errors = [[100 * (rate.value - rate.low) for rate in means], [100 * (rate.high - rate.value) for rate in means]]
        style = look(place) | {"lw": 2.2 if place == 0 else 1.2, "zorder": 9 - place, "label": name}
        axis.errorbar(xs, values, yerr=errors, ms=4.5, capsize=2, elinewidth=0.8, **style)
    axis.set_xticks(range(len(shared)), [str(bits) for bits in shared])
    families = distinct([title for title, _ in groups.values()])
    axis.set_title(f"{attack}, {pair.baseline}" + (f"\ntargets: {families[0]}" if len(families) == 1 else ""))
    axis.grid(axis="y")
