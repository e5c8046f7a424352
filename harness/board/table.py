"""A table without a format, how its cells are written, and how it is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from harness.board.statistics import Rate

DASH = "–"
NO_DATA = "no data"
_LATEX = str.maketrans(
    {
        "–": "--",
        "−": "$-$",
        "±": "$\\pm$",
        "×": "$\\times$",
        "∞": "$\\infty$",
        "†": "$\\dagger$",
        "‡": "$\\ddagger$",
        "§": "\\S{}",
        "≤": "$\\le$",
        "→": "$\\to$",
    }
)


@dataclass(frozen=True)
class Table:
    """A table: `left` columns of words, which stand to the left, and then numbers, which stand to the right."""

    title: str
    intro: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int

    def draw(self, style: Literal["pipe", "simple"]) -> str:
        """Draw the table: `pipe` is GitHub's Markdown with the alignment of columns, `simple` is for terminals."""
        from tabulate import tabulate

        if not self.rows:
            return "No rows yet."
        align = ["right" if header == "#" else "left" for header in self.headers[: self.left]]
        align += ["right"] * (len(self.headers) - self.left)
        if style == "pipe":
            headers, *rows = [[cell.replace("|", "\\|") for cell in row] for row in (self.headers, *self.rows)]
        else:
            headers = [textwrap.fill(header, 9, break_long_words=False) for header in self.headers]
            rows = [list(row) for row in self.rows]
        return tabulate(rows, headers, style, disable_numparse=True, colalign=align)

    def to_markdown(self, level: int = 2) -> str:
        """Return title, introduction and table as a section of Markdown."""
        intro = f"{self.intro}\n\n" if self.intro else ""
        return f"{'#' * level} {self.title}\n\n{intro}{self.draw('pipe')}\n"

    def to_html(self) -> str:
        """Return title, introduction and table as HTML, every word of them escaped."""
        from tabulate import tabulate

        parts = [f"<h4>{escape(self.title)}</h4>", f"<p>{escape(self.intro)}</p>" if self.intro else ""]
        align = ["left"] * self.left + ["right"] * (len(self.headers) - self.left)
        table = tabulate(self.rows, self.headers, "html", disable_numparse=True, colalign=align) if self.rows else "No rows yet."
        return "\n".join(part for part in (*parts, table) if part)

    def to_latex(self) -> str:
        """Return the table with its title as caption, for the package booktabs, in ASCII."""
        from tabulate import tabulate

        align = ["left"] * self.left + ["right"] * (len(self.headers) - self.left)
        body = tabulate(self.rows, self.headers, "latex_booktabs", disable_numparse=True, colalign=align)
        caption = tabulate([[self.title]], tablefmt="latex").splitlines()[2].removesuffix("\\\\").strip()
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", body, "\\end{table}", ""]
        return "\n".join(lines).translate(_LATEX)

    def to_text(self) -> str:
        """Return title, introduction and table for a terminal."""
        return "\n".join([self.title, *textwrap.wrap(self.intro, 118), "", self.draw("simple"), ""])


def steady(value: float) -> float:
    """Return a number without the last bits, in which processors differ, so that halves are rounded alike everywhere."""
    return round(value, 10)


def percent(value: float) -> str:
    """Return a fraction as percent with one decimal."""
    return f"{steady(100 * value):.1f}"


def points(value: float) -> str:
    """Return a difference of fractions in percentage points with its sign."""
    return f"{steady(100 * value):+.1f}"


def bounds(low: float, high: float) -> str:
    """Return an interval of a difference in percentage points."""
    return f"[{points(low)}, {points(high)}]"


def with_interval(rate: Rate | None) -> str:
    """Return a rate in percent with half the width of its interval."""
    return NO_DATA if rate is None else f"{percent(rate.value)} ±{percent((rate.high - rate.low) / 2)}"


def p_value(p: float) -> str:
    """Return a p-value with three decimals, or that it is smaller."""
    return "<0.001" if steady(p) < 0.001 else f"{steady(p):.3f}"
