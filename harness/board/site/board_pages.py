"""The pages of one board: its own, one for every line, and the files to download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.board import Board
from harness.board.plots import PLOTS
from harness.board.plots.style import Choice, inline_svg, open_style
from harness.board.site import row_view, viewer
from harness.board.site.catalogue import attacks
from harness.board.site.heat import heat
from harness.board.site.view import COMMON, View, in_percent
from harness.board.site.writer import Writer, open_writer
from harness.records import chain
from harness.records.pinned import PinnedSuite
from harness.records.rows import read_absent, read_clean, read_rows
from harness.storage.files import read_bytes
from zoo.errors import UserError
from zoo.registry import registry as registries

FIGURES = {
    "bits": "ASR against the bitwidth of the target",
    "gains": "Gains",
    "cost": "ASR against cost",
}
"""Pictures that a board's page shows, where the board has something for them to show."""
ANALYSES = {
    "shift": "Feature shift, layer by layer (Eq. 8)",
    "alignment": "Alignment of input gradients (Eq. 9), and rival measures",
    "batchnorm": "Batch normalisation in each state",
    "states": "States held fixed",
    "sharpness": "Loss sharpness (Eqs. 10 and 11)",
    "margins": "ASR against clean margin",
}
"""What `harness analyze` may have left beside a board."""


def open_view(folder: Path, registry: registries.Registry) -> View:
    """Read the board in a folder.

    Raises:
        UserError: one of its files cannot be read.
    """
    pinned = PinnedSuite.read(folder)
    rows = tuple(read_rows(folder))
    board = Board(pinned, rows, read_clean(folder), read_absent(folder).rows)
    return View(board, rows, pinned, folder, registry)


def write_board(folder: Path, out: Path, overlays: Sequence[str | Path]) -> int:
    """Write the pages of the board in a folder into a site, in a process of its own or in this one; return their number."""
    writer = open_writer(out)
    board_pages(writer, open_view(folder, registries.load(overlays)))
    return writer.pages


def board_pages(writer: Writer, view: View) -> None:
    """Write the page of a board, a page for each of its lines, and its downloads."""
    board, place = view.board, view.place
    entries = view.entries()
    changelog = view.folder / "CHANGELOG.md"
    payload = {"scopes": [s.key for s in view.scopes], "rows": [e["scopes"] for e in entries]}
    writer.page(
        "board.html",
        f"{place}/index.html",
        view=view,
        board=board,
        entries=entries,
        payload=payload,
        common=COMMON,
        figures=_figures(view),
        heat=heat(view),
        analyses=_analyses(writer, view),
        problems=chain.check(view.folder),
        changelog=read_bytes(changelog).decode(errors="replace").strip() if changelog.is_file() else "",
    )
    for name, text in board.files().items():
        writer.file(f"{place}/{name}", text)
    samples = viewer.read(view.folder)
    strips = _strips(writer, view, samples) if samples is not None else set()
    for line in view.lines:
        rows = view.rows_of[line.substitute, line.attack, line.evidence]
        writer.page(
            "row.html",
            f"{place}/rows/{view.page_of(line)}",
            view=view,
            line=line,
            overall=in_percent(line.overall),
            own=in_percent(line.own),
            described=attacks().get(line.attack),
            targets=row_view.targets(view, line),
            seeds=row_view.seeds(line),
            rows=[
                {
                    "row": row,
                    "file": f"rows/{row.filename}",
                    "facts": row_view.origin(view, row, view.folder),
                    "command": row_view.command(row, view.folder),
                    "viewer": row_view.images(view, row, samples, row.filename in strips),
                }
                for row in rows
            ],
            gains=view.gains_of.get(_key(line), []),
            reported=[f for f in view.reported if (f["substitute"], f["attack"]) == _key(line)[:2]],
        )
        for row in rows:
            writer.file(f"{place}/rows/{row.filename}", read_bytes(view.folder / "rows" / row.filename))


def _key(line: Any) -> tuple[str, str, str]:
    return line.substitute, line.attack, line.evidence


def _figures(view: View) -> list[dict[str, str]]:
    """Draw the pictures of a board; one that has nothing to show is left out."""
    from markupsafe import Markup

    made = []
    costs = {line.gradients for line in view.lines} - {None}
    for kind, words in FIGURES.items():
        if kind == "cost" and len(costs) < 2:
            continue  # where all rows cost the same, there is no front to see
        try:
            with open_style(view.pinned.digest + view.version + kind):
                figure = PLOTS[kind](view.board, Choice(most=40))
                label = f"{words}: {view.board.suite.name} {view.version}; the table holds the same figures"
                made.append({"kind": kind, "title": words, "svg": Markup(inline_svg(figure, label))})
        except UserError:
            continue
    return made


def _analyses(writer: Writer, view: View) -> list[dict[str, Any]]:
    """Copy what analyses left beside a board, and return it for the page."""
    made = []
    for kind, words in ANALYSES.items():
        files = sorted((view.folder / "analysis").glob(f"{kind}[.-]*"))
        named = [p.name for p in files if p.suffix in (".json", ".csv", ".svg")]
        for name in named:
            writer.file(f"{view.place}/analysis/{name}", read_bytes(view.folder / "analysis" / name))
        if named:
            tables = [name for name in named if not name.endswith(".svg")]
            picture = f"{kind}.svg" if f"{kind}.svg" in named else ""
            made.append({"kind": kind, "title": words, "picture": picture, "tables": tables})
    return made


def _strips(writer: Writer, view: View, samples: viewer.Samples) -> set[str]:
    """Copy the strips of the rows that they were cut from, with the differences drawn large; return those rows' names."""
    folder = view.folder / viewer.FOLDER
    found: set[str] = set()
    if samples.suite_digest != view.pinned.digest:
        return found
    clean = viewer.from_png(folder / viewer.CLEAN, samples)
    writer.file(f"{view.place}/{viewer.FOLDER}/{viewer.CLEAN}", viewer.to_png(clean))
    for row in view.rows:
        name = viewer.strip_name(row.filename)
        if samples.strips.get(row.filename) != row.images_sha256 or not (folder / name).is_file():
            continue
        adv = viewer.from_png(folder / name, samples)
        difference = viewer.amplified(clean, adv, view.board.suite.budget.levels)
        writer.file(f"{view.place}/{viewer.FOLDER}/{name}", viewer.to_png(adv))
        writer.file(f"{view.place}/{viewer.FOLDER}/difference-{name}", viewer.to_png(difference))
        found.add(row.filename)
    return found
