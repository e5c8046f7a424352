"""A board as Markdown, as text for a terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.board.gains import ALL
from harness.board.lines import family_means, group_means
from harness.board.tables import DASH, PARTIAL, TIERS, WHITEBOX, Reasons, Table, Tables, ranked
from harness.stats import Rate, spread

if TYPE_CHECKING:
    from harness.board import Board

COLUMNS = (
    "substitute",
    "attack",
    "seed",
    "target",
    "family",
    "bits",
    "n",
    "n_correct",
    "asr",
    "lo",
    "hi",
    "error_rate",
    "clean_error",
    "whitebox",
    "evidence",
    "missing",
)
"""Columns of the CSV, one line for each cell; rates in percent, empty where there is no data."""
_NORMS = {"linf": "L∞"}


def to_markdown(board: Board) -> str:
    """Render everything for a reader on the web: figures first, definitions last."""
    reasons = Reasons()
    tables = _tables(board, reasons)
    parts = [f"# {board.suite.title}", _measured(board), ""]
    for table in tables.rankings():
        parts += _section(table)
    gain_table = tables.gain_table(families=True)
    bit_table = tables.bit_table()
    for optional in (gain_table, bit_table, tables.error_table() if board.lines else None):
        parts += _section(optional) if optional else []
    if board.lines:
        parts += ["## Every target", "", "Success rate in percent.", ""]
        for table in tables.cell_tables():
            parts += _section(table, level="###")
    parts += _notes(board, tables, reasons)
    return "\n".join(parts).rstrip() + "\n"


def to_text(board: Board) -> str:
    """Render the ranking and the gains over all families for a terminal."""
    reasons = Reasons()
    tables = _tables(board, reasons)
    parts = [board.suite.title, _measured(board, plain=True), ""]
    shown = tables.rankings()
    gain_table = tables.gain_table(families=False)
    if gain_table:
        shown.append(gain_table)
    for table in shown:
        parts += [table.title, *textwrap.wrap(table.intro, 118), "", _draw(table, "simple"), ""]
    if any(f"{DASH}{WHITEBOX}" in part for part in parts):
        parts.append(f"{DASH}{WHITEBOX} every target is white-box: the substitute has its weights or its architecture")
    if any(PARTIAL in part for part in parts):
        parts.append(f"{PARTIAL} some targets of the family are missing: mean over the others, not ranked")
    parts += [f"({number}) {reason}" for reason, number in reasons.numbers.items()]
    parts += [f"refused: {line}" for line in board.refused]
    return "\n".join(parts).rstrip() + "\n"


def to_csv(board: Board) -> str:
    """Render one line for each cell: substitute x attack x seed x target."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    family: dict[str, str] = {}
    for title, targets in board.suite.families.items():
        for target in targets:
            family.setdefault(target, title)
    for line in sorted(board.lines, key=lambda line: (line.substitute, line.attack, line.evidence)):
        for cell in line.cells():
            rates = (
                ["", "", ""] if cell.asr is None else [_exact(v) for v in (cell.asr.value, cell.asr.low, cell.asr.high)]
            )
            error = "" if cell.error is None else _exact(cell.error.value)
            floor = "" if cell.clean_error is None else _exact(cell.clean_error)
            place = [cell.target, family[cell.target], board.suite.bits[cell.target], cell.n, cell.n_correct]
            tail = [error, floor, str(cell.whitebox).lower(), line.evidence, cell.missing]
            writer.writerow([line.substitute, line.attack, cell.seed, *place, *rates, *tail])
    return stream.getvalue()


def to_json(board: Board) -> dict[str, Any]:
    """Render everything for programs; rates in percent, null where there is no data."""
    suite = board.suite
    tables = _tables(board, Reasons())
    rows = []
    tiers = [tuple(TIERS)] if board.mixed else [(tier,) for tier in TIERS]
    for tier in tiers:
        for rank, line in ranked([line for line in board.lines if line.evidence in tier]):
            widths = [(str(width), member) for width, member in board.frame.widths.items()]
            over = spread(line.seed_overall())
            rows.append(
                {
                    "rank": rank,
                    "substitute": line.substitute,
                    "attack": line.attack,
                    "evidence": line.evidence,
                    "composition": line.composition,
                    "seeds": list(line.seeds),
                    "seed_sd": over and _round(over.sd),
                    "images": line.images,
                    "asr": _rate(line.overall),
                    "families": _rates(family_means(line.asr, board.frame, line.usable)),
                    "bits": _rates(group_means(line.asr, widths, line.usable)),
                    "error_rate": _rates(family_means(line.error, board.frame, line.usable)),
                    "missing": line.missing,
                    "whitebox": [t for t, white in zip(board.frame.targets, line.whitebox, strict=True) if white],
                }
            )
    return {
        "schema_version": 1,
        "suite": {"name": suite.name, "version": suite.version, "digest": suite.digest, "title": suite.title},
        "tiers": tables.tiers,
        "mixed": board.mixed,
        "families": {title: list(targets) for title, targets in suite.families.items()},
        "clean_error": {
            target: _round(1 - float(correct.mean())) if known else None
            for target, correct, known in zip(board.frame.targets, board.frame.correct, board.frame.known, strict=True)
        },
        "rows": rows,
        "gains": [_gain(row) for row in board.gains],
        "absent": [entry.model_dump() for entry in board.absent],
        "refused": list(board.refused),
        "remarks": list(board.remarks),
    }


def _tables(board: Board, reasons: Reasons) -> Tables:
    return Tables(board.frame, board.lines, board.gains, board.absent, reasons, board.mixed)


def _section(table: Table, level: str = "##") -> list[str]:
    return [f"{level} {table.title}", "", *([table.intro, ""] if table.intro else []), _draw(table, "pipe"), ""]


def _draw(table: Table, style: str) -> str:
    """Draw a table: `pipe` is GitHub's Markdown with the alignment of its columns, `simple` is for terminals."""
    from tabulate import tabulate

    align = ["right" if header == "#" else "left" for header in table.headers[: table.left]]
    align += ["right"] * (len(table.headers) - table.left)
    if not table.rows:
        return "No rows yet."
    if style == "pipe":
        headers, *rows = [[cell.replace("|", "\\|") for cell in row] for row in (table.headers, *table.rows)]
    else:
        headers = [textwrap.fill(header, 9, break_long_words=False) for header in table.headers]
        rows = [list(row) for row in table.rows]
    return tabulate(rows, headers, style, disable_numparse=True, colalign=align)


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
        + ("*All families* is the mean of these. " if tables.several else "")
        + "Images are the sampling unit, since the cells of one image are not independent: the interval is Wilson's with "
        "the effective sample size of the mean.",
        f"**\\{WHITEBOX}** white-box: the substitute has the target's weights or its architecture. This is no transfer "
        "between architectures, so it is left out of every mean, gain and rank.",
        "**Error rate**: share of all images that a target gets wrong; it counts errors that are there without an attack. "
        "The clean error beside it is what doing nothing scores.",
        "**#** ranks by " + ("*All families*. " if tables.several else "ASR. ") + "Neighbours may differ by chance; a "
        "gain with its interval and p-value says whether they do.",
    ]
    if board.gains:
        notes += [
            "**Gain**: ASR of the substitute minus ASR of the other one, on the same images and the targets that are "
            "black-box for both. The interval is Bonett and Price's for paired proportions, with images as the sampling "
            "unit.",
            "**p**: two-sided sign-flip test over images, which for a single target is McNemar's exact test; **p (Holm)** "
            f"is corrected for the {len(board.gains)} tests of this board.",
        ]
    if any(len(line.seeds) > 1 for line in board.lines):
        notes.append("**Seeds**: number of seeds, and the standard deviation of the ASR over them.")
    if not all(line.complete for line in board.lines):
        notes.append(f"**{PARTIAL}** some of the targets are missing: mean over the others, not ranked.")
    made = ["## Notes", "", *[f"- {note}" for note in notes]]
    made += _list("Missing cells", [f"({number}) {reason}" for reason, number in reasons.numbers.items()])
    made += _list("Refused rows", board.refused)
    made += _list("Remarks", board.remarks)
    made += ["", "Every cell with its interval is in `board.csv`, every mean in `board.json`."]
    return made


def _list(title: str, entries: Sequence[str]) -> list[str]:
    return ["", f"### {title}", "", *[f"- {entry}" for entry in entries]] if entries else []


def _gain(row: Any) -> dict[str, Any]:
    gain = row.gain
    return {
        "substitute": row.substitute,
        "attack": row.attack,
        "evidence": row.evidence,
        "against": row.against,
        "role": row.role,
        "against_evidence": row.against_evidence,
        "family": None if row.family == ALL else row.family,
        "targets": row.targets,
        "gain": _round(gain.value),
        "low": _round(gain.low),
        "high": _round(gain.high),
        "n": gain.n,
        "p": float(f"{gain.p:.4g}"),
        "p_holm": float(f"{row.p_holm:.4g}"),
    }


def _rate(rate: Rate | None) -> dict[str, float] | None:
    if rate is None:
        return None
    return {"value": _round(rate.value), "low": _round(rate.low), "high": _round(rate.high), "n": rate.n}


def _rates(rates: dict[str, Rate | None]) -> dict[str, dict[str, float] | None]:
    return {title: _rate(rate) for title, rate in rates.items()}


def _round(value: float) -> float:
    return round(100 * value, 4)


def _exact(value: float) -> str:
    return f"{100 * value:.4f}"
