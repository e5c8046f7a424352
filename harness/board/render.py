"""A board for readers: Markdown, and text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from harness.board.compare import compare_reported, reported_table
from harness.board.escape import markdown, plain
from harness.board.table import DASH, Table
from harness.board.tables import DIFFERING, PARTIAL, WHITEBOX, Reasons, Tables, adjustment

if TYPE_CHECKING:
    from harness.board import Board

_NORMS = {"linf": "L∞"}
_SUMMARIES = {
    "": "",
    "All families": "*All families* is the mean of these. ",
    "Common targets": "Substitutes differ in which targets are white-box, so *Common targets* takes only those that are "
    "black-box for every substitute of the board: the mean over families of their means. ",
}


def to_markdown(board: Board) -> str:
    """Render everything for a reader on the web: figures first, definitions last."""
    reasons = Reasons()
    tables = _tables(board, reasons)
    parts = [f"# {board.suite.title}", _measured(board), ""]
    shown = [*tables.rankings(), tables.gain_table(families=True), tables.bit_table()]
    if board.lines:
        shown += [tables.error_table(), tables.cost_table()]
    shown += tables.deployment_tables(board.gaps)
    figures = compare_reported(board.frame, board.lines)
    if any(figure.error is not None for figure in figures):
        shown.append(reported_table(figures, measured_only=True))
    parts += [table.to_markdown() for table in shown if table]
    if board.lines:
        parts += ["## Every target", "", "Success rate in percent.", ""]
        parts += [table.to_markdown(level=3) for table in tables.cell_tables()]
    parts += _notes(board, tables, reasons)
    return "\n".join(parts).rstrip() + "\n"


def to_text(board: Board) -> str:
    """Render the ranking and the gains over all families for a terminal."""
    tables, reasons = _short(board)
    parts = [board.suite.title, _measured(board, plain=True), "", *(table.to_text() for table in tables)]
    return "\n".join([*parts, *_footnotes(board, parts, reasons)]).rstrip() + "\n"


def to_html(board: Board) -> str:
    """Render what `to_text` does for a notebook."""
    tables, reasons = _short(board)
    head = [f"<h3>{escape(board.suite.title)}</h3>", f"<p>{escape(_measured(board, plain=True))}</p>"]
    drawn = [table.to_html() for table in tables]
    notes = [f"<p>{escape(note)}</p>" for note in _footnotes(board, [table.to_text() for table in tables], reasons)]
    return "\n".join([*head, *drawn, *notes])


def to_latex(board: Board) -> str:
    """Render the ranking and the gains over all families as tables for LaTeX with booktabs."""
    tables, _ = _short(board)
    return "\n".join(table.to_latex() for table in tables if table.rows)


def _short(board: Board) -> tuple[list[Table], Reasons]:
    """Return the ranking and the gains over all families, and the reasons that their cells refer to."""
    reasons = Reasons()
    tables = _tables(board, reasons)
    gain_table = tables.gain_table(families=False)
    return [*tables.rankings(), *([gain_table] if gain_table else [])], reasons


def _footnotes(board: Board, drawn: Sequence[str], reasons: Reasons) -> list[str]:
    """Say what the marks in tables that are drawn as text mean, and what is not there."""
    tables, parts = _tables(board, Reasons()), []
    if any(f"{DASH}{WHITEBOX}" in part for part in drawn):
        parts.append(f"{DASH}{WHITEBOX} every target is of the same architecture: the substitute has that, or its weights too")
    if tables.summary == "Common targets":
        parts.append("Common targets: mean over families of the targets that are black-box for every substitute here")
    if any(PARTIAL in part for part in drawn):
        parts.append(f"{PARTIAL} some targets of the family are missing: mean over the others, not ranked")
    if any(f" {DIFFERING}" in part for part in drawn):
        parts.append(f"{DIFFERING} lines are averaged over different targets of the family: those of its architecture left out")
    parts += [f"({number}) {plain(reason)}" for reason, number in reasons.numbers.items()]
    return parts + [f"refused: {plain(line)}" for line in board.refused]


def _tables(board: Board, reasons: Reasons) -> Tables:
    return Tables(board.frame, board.lines, board.gains, board.absent, reasons, board.mixed)


def _measured(board: Board, plain: bool = False) -> str:
    suite, frame = board.suite, board.frame
    sizes = sorted({line.images for line in board.lines})
    total = len(frame.labels)
    first = f"the first {sizes[0]} of " if len(sizes) == 1 and sizes[0] < total else ""
    name, digest = f"{suite.name} v{suite.version}", suite.digest[:12]
    parts = [
        name if plain else f"`{name}`",
        f"{first}{total:,} images",
        f"{len(frame.targets)} targets",
        f"{_NORMS.get(suite.budget.norm, suite.budget.norm)} budget {suite.budget.levels}/255",
        f"{suite.steps} steps",
        f"digest {digest}" if plain else f"digest `{digest}`",
    ]
    return ("" if plain else "\n") + " · ".join(parts)


def _notes(board: Board, tables: Tables, reasons: Reasons) -> list[str]:
    notes = [
        "**ASR**, attack success rate: of the images that a target classifies correctly when clean, the share that it "
        "gets wrong on the adversarial image. Where a target gets no clean image right there is no data.",
        "**Family mean**: mean of the ASR over the family's targets; "
        + _SUMMARIES[tables.summary]
        + "Images are the sampling unit, since the cells of one image are not independent: the interval is Wilson's with "
        "the effective sample size of the mean.",
        f"**\\{WHITEBOX}** white-box: the substitute has the target's weights or its architecture. This is no transfer "
        "between architectures, so it is left out of every mean, gain and rank.",
        "**Error rate**: share of all images that a target gets wrong; it counts errors that are there without an attack. "
        "The clean error beside it is what doing nothing scores.",
        f"**#** ranks by {f'*{tables.summary}*' if tables.summary else 'ASR'}. Neighbours may differ by chance; a gain with "
        "its interval and p-value says whether they do.",
    ]
    if board.gains:
        notes += [
            "**Gain**: ASR of the substitute minus ASR of the other one, on the same images and the targets that are "
            "black-box for both. The interval is Bonett and Price's for paired proportions, with images as the sampling "
            "unit.",
            "**p**: two-sided sign-flip test over images, which for a single target is McNemar's exact test. "
            f"{adjustment(board.gains)}",
        ]
    if any(len(line.seeds) > 1 for line in board.lines):
        notes.append("**Seeds**: number of seeds, and the standard deviation of the ASR over them.")
    if any(line.missing for line in board.lines):
        notes.append(
            f"**{PARTIAL}** some of the targets are missing: mean over the others. It is not comparable, so the "
            "line is not ranked."
        )
    if any(header.endswith(DIFFERING) for table in tables.rankings() for header in table.headers):
        notes.append(
            f"**{DIFFERING}** lines are averaged over different targets of this family, since those that a substitute shares its "
            "architecture with are left out: compare lines in this column only where their targets are the same."
        )
    made = ["## Notes", "", *[f"- {note}" for note in notes]]
    made += _list("Missing cells", [f"({number}) {reason}" for reason, number in reasons.numbers.items()])
    made += _list("Refused rows", board.refused)
    made += _list("Remarks", board.remarks)
    made += ["", "Every cell with its interval is in `board.csv`, every mean in `board.json`."]
    return made


def _list(title: str, entries: Sequence[str]) -> list[str]:
    return ["", f"### {title}", "", *[f"- {markdown(entry)}" for entry in entries]] if entries else []
