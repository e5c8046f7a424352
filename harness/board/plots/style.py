"""What all pictures share: colours that the colour-blind tell apart, a marker and a dash for each, and how they are saved."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.storage.files import atomic_write
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board import Board
    from harness.board.lines import Line

Figure = Any
"""A matplotlib figure; its package is optional and carries no types that are followed here."""
Axes = Any
FORMATS = (".svg", ".png", ".pdf")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A500")
"""Okabe and Ito's palette without black, its yellow darkened; apart under every common colour blindness and on either ground."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)))
SCALE = 1.25
"""How much larger than in print a picture is on a page, so that its smallest words are read."""
INK = "#1A2B3C"
"""Colour of text and axes; the site replaces it by the colour of its text, so that a picture follows the theme."""


@dataclass(frozen=True)
class Choice:
    """Which part of a board a picture shows; empty means everything."""

    attacks: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()
    most: int = 60
    """Lines, or panels, that a picture has at most: the best ones."""

    def lines(self, board: Board) -> list[Line]:
        """Return the chosen lines, best first.

        Raises:
            UserError: there is none.
        """
        from harness.board.tables import ranked

        found = [
            line
            for _, line in ranked(board.lines)
            if (not self.attacks or line.attack in self.attacks)
            and (not self.substitutes or line.substitute in self.substitutes)
        ]
        if not found:
            asked = " x ".join(", ".join(names) for names in (self.substitutes, self.attacks) if names)
            raise UserError(f"the board of {board.suite.name} has no rows{f' of {asked}' if asked else ''} to draw")
        return found


@contextmanager
def open_style(salt: str) -> Iterator[None]:
    """Set matplotlib up for pictures that come out the same every time; `salt` makes the ids of one SVG its own.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("drawing needs matplotlib: pip install 'qnn-transfer-zoo[plots]'") from error
    settings = {
        "svg.hashsalt": salt,
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.hinting": "none",  # so that words are laid out as wide as they are drawn
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "axes.titley": 1.0,  # where matplotlib puts it anyway; asked to find out, it measures every tick again
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": "#8A939C",
        "grid.alpha": 0.35,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with matplotlib.rc_context(settings):
        yield


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of that size in inches, without a window behind it, and its axes as an array (rows, columns)."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@cache
def _shades() -> tuple[str, ...]:
    import matplotlib
    from matplotlib.colors import to_hex

    return tuple(to_hex(matplotlib.colormaps["cividis"](place / 100)) for place in range(101))


def shade(share: float) -> str:
    """Return the colour of a share in [0, 1], dark to light, as cividis has it: it reads alike without colour."""
    return _shades()[round(100 * min(1.0, max(0.0, share)))]


def ink(share: float) -> Literal["light", "dark"]:
    """Return which text is read better on `shade(share)`, by the contrast ratio of WCAG 2."""
    channels = [int(shade(share)[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "dark" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "light"


def look(place: int) -> dict[str, Any]:
    """Return colour, marker and dash of the n-th thing of a picture: the three never repeat together."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
        "ls": DASHES[place % len(DASHES)],
    }


def save(figure: Figure, path: Path, choice: str = "--out") -> None:
    """Write a figure whole, in the format of the suffix, without the time of day; `choice` is what names another folder."""
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    buffer = io.BytesIO()
    _lay_out(figure)
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata, facecolor="white" if kind == "png" else "none")
    atomic_write(path, buffer.getvalue(), choice)


def to_svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file on white ground."""
    buffer = io.StringIO()
    _lay_out(figure)
    figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    return buffer.getvalue()


def inline_svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element for a page: it takes the colour of the text around it and says what it shows."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    _lay_out(figure)
    for patch in (figure.patch, *(axis.patch for axis in figure.axes)):
        patch.set_facecolor("none")
        patch.set_edgecolor("none")
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # `savefig` would draw everything once more, only to measure it
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(INK.lower(), "currentColor")
    for side, inches in zip(("width", "height"), figure.get_size_inches(), strict=True):
        text = re.sub(rf' {side}="[\d.]+pt"', f' {side}="{SCALE * 72 * inches:.6g}pt"', text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label, quote=True)}" ', 1)


def _lay_out(figure: Figure) -> None:
    """Place everything once; saving a figure that has a layout engine would draw it twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def distinct(names: Sequence[str]) -> list[str]:
    """Return every name once, in order."""
    return list(dict.fromkeys(names))


def title(board: Board, words: str) -> str:
    """Return the words with the suite, its version and its budget."""
    return f"{words}\n{board.suite.name} v{board.suite.version}, L∞ {board.suite.budget.levels}/255"
