"""Forest plot: every gain over its baseline and its controls, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.board.gains import ALL
from harness.board.plots.style import Choice, Figure, canvas, look, title
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board import Board


def draw(board: Board, choice: Choice) -> Figure:
    """Return the picture: a point for each gain in percentage points, filled where Holm's p is below 0.05, open otherwise.

    Raises:
        UserError: the board has no gain to show.
    """
    families = {row.family for row in board.gains}
    shown = [
        row
        for row in board.gains
        if (row.family == ALL or len(families) == 1)
        and (not choice.attacks or row.attack in choice.attacks)
        and (not choice.substitutes or row.substitute in choice.substitutes)
    ]
    if not shown:
        raise UserError(f"the board of {board.suite.name} has no gains to draw: its suite has no pairs, or they have no rows")
    total = len(shown)
    shown = sorted(shown, key=lambda row: (row.substitute, row.against, row.attack))[: choice.most]
    figure, axes = canvas(7.6, 1.3 + 0.24 * len(shown))
    axis = axes[0][0]
    for place, row in enumerate(shown):
        gain, kind = row.gain, look(0 if row.role == "baseline" else 1)
        bar = [[100 * (gain.value - gain.low)], [100 * (gain.high - gain.value)]]
        style = kind | {"ls": "none", "mfc": kind["color"] if row.p_holm < 0.05 else "none", "lw": 1.2}
        axis.errorbar([100 * gain.value], [place], xerr=bar, ms=5, capsize=2.5, **style)
    axis.axvline(0, color="#8A939C", lw=1)
    words = [f"{row.substitute} − {row.against} ({row.role}) · {row.attack}" for row in shown]
    axis.set_yticks(range(len(shown)), words, fontsize=7)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.grid(axis="x")
    axis.set_xlabel("gain in ASR (percentage points); filled: p (Holm) < 0.05")
    left = "" if total == len(shown) else f", {len(shown)} of {total}"
    axis.set_title(title(board, f"Gains, paired over images, 95 % intervals{left}"))
    return figure
