"""Success rate against what crafting costs, with the front of what nobody beats at its price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.board.plots.style import INK, Choice, Figure, canvas, distinct, look, title
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board import Board
    from harness.board.lines import Line


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the (cost, rate) points that no other point beats, in the order of their cost.

    A point is beaten by one that is as cheap and better, or cheaper and as good. Points alike in both stand there together.
    """
    best: list[int] = []
    top = float("-inf")
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        cost, value = points[place]
        if value > top or (best and points[best[-1]] == (cost, value)):
            best.append(place)
            top = max(top, value)
    return best


def draw(board: Board, choice: Choice) -> Figure:
    """Return the picture: a point for each line that declares its gradients per image; the front is joined and named.

    Raises:
        UserError: no line declares its cost.
    """
    lines = [line for line in choice.lines(board) if line.gradients is not None and line.overall is not None]
    if not lines:
        raise UserError(f"no row of {board.suite.name} declares its gradients per image, so there is no cost to draw against")
    attacks = distinct([line.attack for line in lines])
    figure, axes = canvas(7.6, 4.4)
    axis = axes[0][0]
    places = [(float(line.gradients or 0), 100 * line.overall.value) for line in lines if line.overall]
    best = front(places)
    for place, attack in enumerate(attacks[:16]):
        chosen = [i for i, line in enumerate(lines) if line.attack == attack]
        kind = look(place) | {"ls": "none"}
        axis.plot([places[i][0] for i in chosen], [places[i][1] for i in chosen], label=attack, ms=6, alpha=0.85, **kind)
    rest = [i for i, line in enumerate(lines) if line.attack in attacks[16:]]
    if rest:
        others = f"{len(attacks) - 16} more"
        axis.plot([places[i][0] for i in rest], [places[i][1] for i in rest], ".", color="#8A939C", label=others)
    axis.plot([places[i][0] for i in best], [places[i][1] for i in best], color=INK, lw=1, ls="--", zorder=0, label="front")
    _name(axis, [lines[i] for i in best], [places[i] for i in best])
    axis.set_xscale("log")
    low, high = min(cost for cost, _ in places), max(cost for cost, _ in places)
    axis.set_xlim(max(low, 0.5) / 1.6, high * 2.6)
    axis.set_xlabel("gradients per image")
    axis.set_ylabel("ASR, common targets (%)")
    axis.grid()
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    axis.set_title(title(board, "ASR against cost, with the front that no other line beats"))
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    return figure


def _name(axis: object, lines: Sequence[Line], places: Sequence[tuple[float, float]]) -> None:
    for line, (x, y) in zip(lines, places, strict=True):
        words = f"{line.attack}, {line.substitute}"
        axis.annotate(words, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=7)  # type: ignore[attr-defined]
