"""Success rates of every line on every target, the targets in the order of their bitwidths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.board.plots.style import INK, Choice, Figure, canvas, ink, title

if TYPE_CHECKING:
    from harness.board import Board


def draw(board: Board, choice: Choice) -> Figure:
    """Return the picture: a cell's shade and figure are its ASR in percent, starred within one architecture."""
    lines = choice.lines(board)
    shown = lines[: choice.most]
    frame = board.frame
    order = sorted(range(len(frame.targets)), key=lambda t: (-board.suite.bits[frame.targets[t]], t))
    values = np.array([[100 * line.asr.value[t] if line.measured[t] else np.nan for t in order] for line in shown])
    width, height = 2.9 + 0.34 * len(order), 1.7 + 0.24 * len(shown)
    figure, axes = canvas(width, height)
    axis = axes[0][0]
    grid = axis.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=100, edgecolors="none")
    for row, line in enumerate(shown):
        for column, target in enumerate(order):
            value = values[row, column]
            star = "*" if line.whitebox[target] else ""
            words = "–" if np.isnan(value) else f"{value:.0f}{star}"
            colour = INK if np.isnan(value) else {"light": "white", "dark": "black"}[ink(value / 100)]
            axis.text(column + 0.5, row + 0.5, words, ha="center", va="center", fontsize=6.5, color=colour)
    names = [frame.targets[t] for t in order]
    axis.set_xticks(np.arange(len(order)) + 0.5, names, rotation=60, ha="left", fontsize=7, rotation_mode="anchor")
    axis.set_yticks(np.arange(len(shown)) + 0.5, [f"{line.substitute} · {line.attack}" for line in shown], fontsize=7)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.invert_yaxis()
    for spine in axis.spines.values():
        spine.set_visible(False)
    _mark_widths(axis, [board.suite.bits[name] for name in names], len(shown))
    figure.colorbar(grid, ax=axis, label="ASR (%)", fraction=0.025, pad=0.01)
    words = "ASR of every line on every target (* same architecture)"
    if len(shown) < len(lines):
        words += f", the best {len(shown)} of {len(lines)}"
    axis.set_xlabel(title(board, words), labelpad=20)
    return figure


def _mark_widths(axis: object, widths: list[int], bottom: int) -> None:
    """Draw a gap where the bitwidth changes, and name each bitwidth below its columns."""
    starts = [i for i, width in enumerate(widths) if i == 0 or widths[i - 1] != width]
    for start, stop in zip(starts, [*starts[1:], len(widths)], strict=True):
        middle = (start + stop) / 2
        axis.text(middle, bottom + 0.25, f"{widths[start]} bit", ha="center", va="top", fontsize=7)  # type: ignore[attr-defined]
        if start:
            axis.axvline(start, color="white", lw=2.5)  # type: ignore[attr-defined]
