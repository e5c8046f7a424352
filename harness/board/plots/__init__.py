"""Pictures of boards, for print and for the site: each module draws one kind; `PLOTS` names them.

Imports matplotlib inside its functions and never torch. Start reading in `style`, which every picture shares: no two things
are told apart by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.board.plots import ablation, bits, cost, gains, heatmap
from harness.board.plots.style import FORMATS, open_style, save, to_svg
from zoo.errors import UserError, did_you_mean

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


def plot(board: Board, kind: str, path: Path, choice: Choice, option: str = "") -> None:
    """Draw one kind of picture of a board and write it as PNG, SVG or PDF, by the suffix of the path.

    Args:
        board: what is drawn.
        kind: one of `PLOTS`.
        path: the file to write; its folder is made if need be.
        choice: which part of the board.
        option: the option that named the file, for messages.

    Raises:
        UserError: matplotlib is not installed, the suffix is another, or the board has nothing of that kind to show.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: pictures are written as {', '.join(FORMATS)}; end the name in one of them")
    with open_style(board.suite.digest + kind):
        save(_drawer(kind)(board, choice), path, option or "another path")


@dataclass(frozen=True)
class Picture:
    """A picture that a notebook shows as it is. `figure` is matplotlib's."""

    figure: Figure
    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg


def picture(board: Board, kind: str, choice: Choice) -> Picture:
    """Draw one kind of picture of a board, to be shown or worked on.

    Raises:
        UserError: matplotlib is not installed, there is no such kind, or the board has nothing of that kind to show.
    """
    with open_style(board.suite.digest + kind):
        figure = _drawer(kind)(board, choice)
        return Picture(figure, to_svg(figure))


def _drawer(kind: str) -> Callable[[Board, Choice], Figure]:
    if kind not in PLOTS:
        raise UserError(f"there is no picture {kind!r}{did_you_mean(kind, PLOTS)}; there are {', '.join(PLOTS)}")
    return PLOTS[kind]
