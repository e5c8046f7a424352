"""A picture of a board: success rate against the bitwidth of the target, one panel per attack and pair."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.board import Board
from harness.board.lines import Line, group_means
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board.protocol import PairView


def draw(board: Board, path: Path) -> None:
    """Write an SVG or PNG with each pair's QAA substitute, its baseline and its controls over the bitwidths of the targets.

    Points are means over black-box targets of one bitwidth, bars 95 % intervals over images.

    Raises:
        UserError: matplotlib is not installed, or the board has no pair to show.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("drawing needs matplotlib: pip install 'qnn-transfer-zoo[plots]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    pairs = list(board.suite.pairs)
    attacks = sorted({line.attack for line in board.lines})
    if not pairs or not attacks:
        raise UserError(f"suite {board.suite.name} has no pairs or no rows to draw")
    style = {"svg.hashsalt": board.suite.digest, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        size = (3.6 * len(attacks) + 2.2, 2.9 * len(pairs))
        figure, axes = pyplot.subplots(len(pairs), len(attacks), squeeze=False, sharex=True, sharey=True, figsize=size)
        for row, pair in enumerate(pairs):
            for column, attack in enumerate(attacks):
                _panel(axes[row][column], board, pair, attack)
            axes[row][0].set_ylabel("ASR (%)")
            axes[row][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
        for axis in axes[-1]:
            axis.set_xlabel("bits of the target")
        figure.suptitle(f"{board.suite.title}: L∞ {board.suite.budget.levels}/255, 95 % intervals over images", fontsize=10)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
        pyplot.close(figure)


def _panel(axis: object, board: Board, pair: PairView, attack: str) -> None:
    names = [pair.substitute, pair.baseline, *pair.controls]
    lines = {line.substitute: line for line in board.lines if line.attack == attack}
    shared = sorted(board.frame.widths, reverse=True)
    for place, name in enumerate(n for n in names if n in lines):
        points = _points(board, lines[name])
        xs = [shared.index(bits) + 0.08 * (place - len(names) / 2) for bits, _, _, _ in points]
        values = [100 * value for _, value, _, _ in points]
        errors = [[100 * (v - low) for _, v, low, _ in points], [100 * (high - v) for _, v, _, high in points]]
        style = {"lw": 2.2, "marker": "o", "zorder": 5} if name == pair.substitute else {"lw": 1.1, "marker": "s", "ls": "--"}
        axis.errorbar(xs, values, yerr=errors, label=name, ms=4, capsize=2, elinewidth=0.8, **style)  # type: ignore[attr-defined]
    axis.set_xticks(range(len(shared)), [str(bits) for bits in shared])  # type: ignore[attr-defined]
    axis.set_title(f"{attack}, {pair.baseline}", fontsize=9)  # type: ignore[attr-defined]


def _points(board: Board, line: Line) -> list[tuple[int, float, float, float]]:
    """Return (bits, rate, low, high) of a line, widest first, where it has black-box targets of that bitwidth."""
    groups = [(str(bits), members) for bits, members in sorted(board.frame.widths.items(), reverse=True)]
    means = group_means(line.asr, groups, line.usable)
    return [(int(bits), rate.value, rate.low, rate.high) for bits, rate in means.items() if rate is not None]
