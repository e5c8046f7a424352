"""What people read: the rows of a suite as boards, tables and figures, without torch.

It may import `records`, `suites` and `storage`. Begin with `Board` below: `gather` turns rows into lines, `statistics` gives
rates, intervals and tests, `gains` compares substitutes, `tables` and `export` write, `compare` puts the paper or another row
beside.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.board import export, render
from harness.board.deployment import gaps
from harness.board.frame import Frame
from harness.board.gains import gains
from harness.board.gather import gather
from harness.board.lines import TIERS, Line
from harness.board.protocol import SuiteView
from harness.records import chain
from harness.records.rows import Absent, Clean, Row, read_absent, read_clean, read_rows
from harness.storage.files import atomic_write, read_bytes
from zoo.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from harness.board.plots import Picture

__all__ = ["Board", "SuiteView", "check", "load", "write_files"]


class Board:
    """The leaderboard of a suite: rows gathered over seeds, with rates, intervals and gains.

    Rows that do not belong to the suite, by its digest or its budget, are in `refused` with the reason; when no other is
    left that is a UserError. `absent` are rows that could not be made. Tiers of evidence are ranked and compared apart
    unless `mixed`.
    """

    FILES = ("board.md", "board.csv", "board.json")
    """Names of what `files` returns."""

    def __init__(
        self,
        suite: SuiteView,
        rows: Iterable[Row],
        clean: Clean,
        absent: Iterable[Absent] = (),
        mixed: bool = False,
    ) -> None:
        self.suite = suite
        self.mixed = mixed
        self.frame = Frame(suite, clean)
        rows = list(rows)
        gathered = gather(self.frame, rows)
        self.lines = gathered.lines
        self.refused = gathered.refused
        there = {(line.substitute, line.attack) for line in self.lines}
        self.absent = [entry for entry in absent if (entry.substitute, entry.attack) not in there]
        self.gains, left_out = gains(self.frame, self.lines, mixed)
        self.remarks = gathered.remarks + left_out
        self.gaps = gaps(self.frame, self.lines, (row for row in rows if row.suite_digest == suite.digest))

    def line(self, substitute: str, attack: str) -> Line:
        """Return the line of a substitute and an attack, of the best tier of evidence that it has.

        Raises:
            UserError: the board has none.
        """
        for tier in TIERS:
            for line in self.lines:
                if (line.substitute, line.attack, line.evidence) == (substitute, attack, tier):
                    return line
        known = [f"{line.substitute} x {line.attack}" for line in self.lines]
        near = did_you_mean(f"{substitute} x {attack}", known)
        raise UserError(f"the board of {self.suite.name} has no row of {substitute} x {attack}{near}")

    def to_markdown(self) -> str:
        """Return the whole board as Markdown."""
        return render.to_markdown(self)

    def __str__(self) -> str:
        return self.to_text()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        return render.to_html(self)

    def to_text(self) -> str:
        """Return the ranking and the gains for a terminal of 120 columns."""
        return render.to_text(self)

    def to_latex(self) -> str:
        """Return the ranking and the gains as tables for a paper, in the style of the LaTeX package booktabs."""
        return render.to_latex(self)

    def to_pandas(self) -> Any:
        """Return one line for each cell, the columns of `to_csv`, as a pandas.DataFrame; rates in percent, NaN without data.

        Raises:
            UserError: pandas is not installed.
        """
        return export.to_pandas(self)

    def plot(
        self,
        kind: str = "heatmap",
        path: str | Path | None = None,
        *,
        attacks: Iterable[str] = (),
        substitutes: Iterable[str] = (),
        most: int = 60,
    ) -> Picture:
        """Draw the board; a notebook shows what is returned, whose `figure` is matplotlib's.

        Args:
            kind: heatmap, bits, gains, cost or ablation, as of `harness plot`.
            path: also write it there, a .svg, .png or .pdf.
            attacks: only these; () is all, and so for substitutes.
            substitutes: only these.
            most: lines that are shown at most, the best.

        Raises:
            UserError: matplotlib is not installed, there is no such kind, or nothing of it to show.
        """
        from harness.board import plots
        from harness.board.plots.style import Choice

        choice = Choice(tuple(attacks), tuple(substitutes), most)
        if path is not None:
            plots.plot(self, kind, Path(path), choice)
        return plots.picture(self, kind, choice)

    def to_csv(self) -> str:
        """Return one line for each cell, as CSV."""
        return export.to_csv(self)

    def to_json(self) -> dict[str, Any]:
        """Return every mean and gain as plain data."""
        return export.to_json(self)

    def files(self) -> dict[str, str]:
        """Return the files of the board by name."""
        data = export.one_line_each(self.to_json())
        return dict(zip(self.FILES, (self.to_markdown(), self.to_csv(), data), strict=True))


def load(folder: Path, suite: SuiteView | None = None, mixed: bool = False) -> Board:
    """Read the board of a leaderboard folder: suite.yaml (unless a suite is given), clean.json, absent.json, rows/*.json.

    Raises:
        UserError: the folder holds no leaderboard, a file is damaged, or no row belongs to the suite.
    """
    suite = suite or _pinned(folder)
    if not any((folder / "rows").glob("*.json")) and not (folder / "clean.json").is_file():
        raise UserError(no_rows(folder, suite.name))
    return Board(suite, read_rows(folder), read_clean(folder), read_absent(folder).rows, mixed)


def no_rows(folder: Path, suite: str) -> str:
    """Say that a folder has no rows, and what to do."""
    if (folder / "run.json").is_file():
        return f"{folder} has no rows yet, since its run stopped before the first one; go on with: harness resume --suite {suite}"
    return f"{folder} has no rows yet; make some with: harness run --suite {suite}"


def _pinned(folder: Path) -> SuiteView:
    from harness.records.pinned import PinnedSuite

    return PinnedSuite.read(folder)


def write_files(board: Board, folder: Path) -> None:
    """Write board.md, board.csv and board.json into the folder."""
    for name, content in board.files().items():
        atomic_write(folder / name, content)


def check(folder: Path, suite: SuiteView | None = None) -> list[str]:
    """Return how a folder's rows differ from its chain, and its board files from its rows; empty when all agree."""
    problems = chain.check(folder)
    for name, expected in load(folder, suite).files().items():
        path = folder / name
        if not path.exists():
            problems.append(f"{path} is missing; harness run writes it")
            continue
        found = read_bytes(path).decode(errors="replace")
        if found != expected:
            problems.append(f"{path} differs from its rows, {_first_difference(found, expected)}")
    return problems


def _first_difference(found: str, expected: str) -> str:
    for number, (old, new) in enumerate(zip(found.splitlines(), expected.splitlines(), strict=False), start=1):
        if old != new:
            return f"first in line {number}: the file has {_near(old, new)}, the rows give {_near(new, old)}"
    return f"it has {len(found.splitlines())} lines and the rows give {len(expected.splitlines())}"


def _near(line: str, other: str) -> str:
    """Return the part of a line around its first difference from the other."""
    start = next((i for i, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other)))
    return repr(line[max(0, start - 20) : start + 20])
