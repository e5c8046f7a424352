"""One bar for each substitute under each attack: what a choice changes (the paper's Figs. 5 and 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.board.plots.style import COLOURS, Choice, Figure, canvas, distinct, title

if TYPE_CHECKING:
    from harness.board import Board

HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")


def draw(board: Board, choice: Choice) -> Figure:
    """Return the picture: substitutes in the order of the suite, one bar for each attack, 95 % intervals over images.

    Bars show the mean over the common targets; attacks differ in colour and hatching.
    """
    lines = [line for line in choice.lines(board) if line.overall is not None]
    order = {name: place for place, name in enumerate(_named(board))}
    substitutes = sorted(distinct([line.substitute for line in lines]), key=lambda name: (order.get(name, len(order)), name))
    substitutes = substitutes[: choice.most]
    attacks = sorted(distinct([line.attack for line in lines]))[: len(HATCHES)]
    figure, axes = canvas(7.6, 1.2 + len(substitutes) * (0.16 + 0.16 * len(attacks)))
    axis = axes[0][0]
    height = 0.8 / len(attacks)
    for place, attack in enumerate(attacks):
        chosen = [line for line in lines if line.attack == attack and line.substitute in substitutes]
        ys = np.array([substitutes.index(line.substitute) for line in chosen]) + (place - (len(attacks) - 1) / 2) * height
        rates = [line.overall for line in chosen if line.overall is not None]
        values = [100 * rate.value for rate in rates]
        bars = [[100 * (r.value - r.low) for r in rates], [100 * (r.high - r.value) for r in rates]]
        look = {"color": COLOURS[place], "hatch": HATCHES[place], "edgecolor": "white", "lw": 0.4}
        axis.barh(ys, values, height, label=attack, xerr=bars, error_kw={"lw": 0.8, "capsize": 1.5, "ecolor": "#5A636C"}, **look)
    axis.set_yticks(range(len(substitutes)), substitutes, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("ASR, common targets (%)")
    axis.grid(axis="x")
    axis.set_axisbelow(True)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    axis.set_title(title(board, "ASR of every substitute, 95 % intervals over images"))
    return figure


def _named(board: Board) -> list[str]:
    """Return the substitutes in the order in which the suite's pairs name them."""
    return distinct([name for pair in board.suite.pairs for name in (pair.baseline, *pair.controls, pair.substitute)])
