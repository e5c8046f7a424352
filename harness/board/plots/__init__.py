"""Pictures of boards, for print and for the site: each module draws one kind; `PLOTS` names them.

Imports matplotlib inside its functions and never torch. Start reading in `style`, which every picture shares: no two things
are told apart by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.board.plots import ablation, bits, cost, gains, heatmap
from harness.board.plots.style import FORMATS, open_style, save
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board import Board
    from harness.board.plots.style import Choice, Figure

PLOTS: dict[str, Callable[[Board, Choice], Figure]] = {
    "heatmap": heatmap.draw,
    "bits": bits.draw,
    "gains": gains.draw,
    "cost": cost.draw,
    "ablation": ablation.draw,
}
"""Kinds: substitutes x targets, ASR against bitwidth, gains with intervals, ASR against cost, one bar for each line."""


def plot(board: Board, kind: str, path: Path, choice: Choice) -> None:
    """Draw one kind of picture of a board and write it as PNG, SVG or PDF, by the suffix of the path.

    Raises:
        UserError: matplotlib is not installed, the suffix is another, or the board has nothing of that kind to show.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: pictures are written as {', '.join(FORMATS)}; end the name in one of them")
    with open_style(board.suite.digest + kind):
        save(PLOTS[kind](board, choice), path)
