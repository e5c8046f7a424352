"""What an analysis leaves beside a board: one JSON with everything, a CSV for each table, and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analyze.study import Row, Study
from harness.board.export import one_line_each
from harness.records.provenance import provenance
from harness.storage.files import atomic_write

SCHEMA = 1
FOLDER = "analysis"


def write(folder: Path, kind: str, study: Study, settings: Row, tables: Mapping[str, Sequence[Row]]) -> list[Path]:
    """Write `folder`/analysis/<kind>.json and <kind>-<table>.csv for each table that has rows; return their paths.

    Repeats under one seed give the same bytes: nothing that differs from run to run is written.
    """
    place, suite = folder / FOLDER, study.suite
    facts = provenance()
    head: dict[str, Any] = {
        "schema_version": SCHEMA,
        "analysis": kind,
        "suite": {"name": suite.name, "version": suite.version},
        "images": len(study.pixels),
        "images_sha256": study.workspace.digest,
        "seed": study.seed,
        "device": study.device,
        "package": facts.package,
        "torch": facts.torch,
        "settings": settings,
        "models": {name: study.workspace.sha256(name) for name in _models(study, tables)},
    }
    paths = [place / f"{kind}.json"]
    atomic_write(paths[0], one_line_each({**head, **{name: _clean(rows) for name, rows in tables.items()}}))
    for name, rows in tables.items():
        if rows:
            paths.append(place / (f"{kind}.csv" if len(tables) == 1 else f"{kind}-{name}.csv"))
            atomic_write(paths[-1], to_csv(rows))
    return paths


def to_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV under all their keys, in the order of their appearance; what is nested stands as JSON."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(keys)
    for row in _clean(rows):
        values = [row.get(key) for key in keys]
        writer.writerow(["" if v is None else json.dumps(v) if isinstance(v, dict | list) else v for v in values])
    return stream.getvalue()


def _clean(rows: Sequence[Row]) -> list[Row]:
    """Return rows with numbers rounded to nine digits, and null in the place of what is no number."""
    return [{key: _rounded(value) for key, value in row.items()} for row in rows]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value


def _models(study: Study, tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the registry's models that the rows name."""
    names = {row[key] for rows in tables.values() for row in rows for key in ("model", "substitute", "target") if key in row}
    own = {spec.name: spec.models for spec in study.suite.substitutes}
    models = {m for name in names for m in own.get(name, (name,))}
    return sorted(m for m in models if m in study.workspace.registry)
