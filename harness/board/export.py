"""A board for programs: CSV with one line for each cell, and JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from harness.board.compare import ReportedFigure, compare_reported
from harness.board.deployment import Gap
from harness.board.escape import csv_text
from harness.board.gains import ALL, GainRow
from harness.board.lines import TIERS, Line, family_means
from harness.board.statistics import Rate, spread
from harness.board.table import steady
from harness.board.tables import ranked
from zoo.errors import UserError

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
            tail = [error, floor, str(cell.whitebox).lower(), line.evidence, csv_text(cell.missing)]
            writer.writerow([line.substitute, line.attack, cell.seed, *place, *rates, *tail])
    return stream.getvalue()


def to_pandas(board: Board) -> Any:
    """Return the cells as a pandas.DataFrame."""
    try:
        import pandas
    except ImportError as error:
        raise UserError("a table of pandas needs it: pip install 'qnn-transfer-zoo[notebook]'") from error
    words = dict.fromkeys(("substitute", "attack", "target", "family", "evidence", "missing"), "str")
    empty = dict.fromkeys(("asr", "lo", "hi", "error_rate", "clean_error"), "")
    return pandas.read_csv(io.StringIO(to_csv(board)), dtype=words, keep_default_na=False, na_values=empty)


def to_json(board: Board) -> dict[str, Any]:
    """Render everything for programs; rates in percent, null where there is no data."""
    suite = board.suite
    rows = []
    tiers = [tuple(TIERS)] if board.mixed else [(tier,) for tier in TIERS]
    for tier in tiers:
        for rank, line in ranked([line for line in board.lines if line.evidence in tier]):
            over = spread(line.seed_overall())
            rows.append(
                {
                    "name": f"{line.substitute} x {line.attack}",
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
                    "bits": _bits(line),
                    "error_rate": _rates(family_means(line.error, board.frame, line.usable)),
                    "missing": line.missing,
                    **_cost(line),
                    "whitebox": [t for t, white in zip(board.frame.targets, line.whitebox, strict=True) if white],
                }
            )
    pairs = {"deployment": [_gap(gap) for gap in board.gaps]} if board.gaps else {}
    return {
        "schema_version": 1,
        "suite": {"name": suite.name, "version": suite.version, "digest": suite.digest, "title": suite.title},
        "tiers": [tier for tier in TIERS if any(line.evidence == tier for line in board.lines)],
        "mixed": board.mixed,
        "families": {title: list(targets) for title, targets in suite.families.items()},
        "clean_error": {
            target: _round(1 - float(correct.mean())) if known else None
            for target, correct, known in zip(board.frame.targets, board.frame.correct, board.frame.known, strict=True)
        },
        "rows": rows,
        "gains": [_gain(row) for row in board.gains],
        **pairs,
        "reported": [_reported_figure(figure) for figure in compare_reported(board.frame, board.lines)],
        "absent": [entry.model_dump() for entry in board.absent],
        "refused": list(board.refused),
        "remarks": list(board.remarks),
    }


def one_line_each(data: dict[str, Any]) -> str:
    """Return data as JSON with every entry of a list on its own line, which version control can compare."""
    parts = []
    for key, value in data.items():
        text = _compact(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(_compact(entry) for entry in value) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _gap(gap: Gap) -> dict[str, Any]:
    line = gap.line
    where = {"substitute": line and line.substitute, "attack": line and line.attack, "evidence": line and line.evidence}
    return {"kind": gap.kind, "target": gap.target, "of": gap.other, **where, "whitebox": gap.whitebox, "rate": _rate(gap.rate)}


def _gain(row: GainRow) -> dict[str, Any]:
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
        "p": float(f"{steady(gain.p):.4g}"),
        "p_holm": float(f"{steady(row.p_holm):.4g}"),
    }


def _reported_figure(figure: ReportedFigure) -> dict[str, Any]:
    difference = figure.difference
    return {
        "substitute": figure.substitute,
        "attack": figure.attack,
        "target": figure.target,
        "reported": _round(figure.reported),
        "error_rate": _rate(figure.error),
        "asr": _rate(figure.asr),
        "difference": None if difference is None else _round(difference),
        "covered": figure.covered,
        "reason": figure.reason,
    }


def _cost(line: Line) -> dict[str, Any]:
    """Return what a line costs and how large its perturbations are; nothing where its rows do not say how large."""
    if line.size is None:
        return {}
    size = {"l2": round(line.size.l2, 4), "ssim": round(line.size.ssim, 4)}
    seconds = None if line.seconds is None else float(f"{line.seconds:.4g}")
    return {"gradients": line.gradients, "seconds": seconds, **size}


def _bits(line: Line) -> list[dict[str, Any]]:
    """Return the success rate of every bitwidth in every family."""
    made = []
    for (width, family), members in line.frame.width_groups.items():
        usable = members & line.usable
        rate = line.asr.mean(usable) if usable.any() else None
        made.append({"bits": width, "family": family, "asr": _rate(rate)})
    return made


def _rate(rate: Rate | None) -> dict[str, float] | None:
    if rate is None:
        return None
    return {"value": _round(rate.value), "low": _round(rate.low), "high": _round(rate.high), "n": rate.n}


def _rates(rates: dict[str, Rate | None]) -> dict[str, dict[str, float] | None]:
    return {title: _rate(rate) for title, rate in rates.items()}


def _round(value: float) -> float:
    return round(steady(100 * value), 4)


def _exact(value: float) -> str:
    return f"{steady(100 * value):.4f}"
