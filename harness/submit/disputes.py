"""Verifications of submitted rows: every draw is logged, and a verdict of `different` stays until somebody clears it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from harness.board import load as load_board
from harness.board import write_files
from harness.records.rows import Cleared, Created, Dispute, Row, read_row, write_row
from harness.storage.files import atomic_write, read_bytes
from harness.storage.lock import exclusive
from harness.submit.text import refuse_odd_text
from zoo.errors import UserError
from zoo.registry.entry import Record, Sha256

LOG = "draws.jsonl"


class Draw(Record):
    """One verification of a row."""

    row: Annotated[str, StringConstraints(max_length=255)]
    """File name of the row."""
    sha256: Sha256
    """Digest of its file as it was."""
    seed: int = Field(ge=0)
    """Seed of the sample; repeats the draw."""
    images: int = Field(ge=0)
    """Images made again."""
    differing: int = Field(ge=0)
    """Predictions that differed."""
    predictions: int = Field(ge=0)
    """Predictions compared."""
    verdict: str
    """What was found."""
    created: Created
    """When."""


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def log(path: Path, draw: Draw) -> None:
    """Add a draw to the log of the board that a row lies on; one that found other outcomes goes into the row, too.

    Raises:
        UserError: the board cannot be written, or is being written by somebody else.
    """
    folder = path.resolve().parent.parent
    with exclusive(folder):
        before = read_bytes(folder / LOG).decode(errors="replace") if (folder / LOG).is_file() else ""
        atomic_write(folder / LOG, before + draw.model_dump_json() + "\n")
        if draw.verdict != "different":
            return
        row = read_row(path)
        dispute = Dispute(
            seed=draw.seed,
            images=max(1, draw.images),
            differing=draw.differing,
            predictions=draw.predictions,
            created=draw.created,
        )
        _rewrite(folder, row, (*_disputes(row), dispute))


def draws(folder: Path) -> list[Draw]:
    """Return all draws of a board, oldest first."""
    text = read_bytes(folder / LOG).decode(errors="replace") if (folder / LOG).is_file() else ""
    return [Draw.model_validate(json.loads(line)) for line in text.splitlines()]


def standing(row: Row) -> list[Dispute]:
    """Return the disputes of a row that nobody has cleared."""
    return [dispute for dispute in _disputes(row) if dispute.cleared is None]


def clear(path: Path, by: str, because: str) -> int:
    """Clear the disputes that stand in a row, by name; return how many those were.

    Raises:
        UserError: there is none, or the name or the reason is odd.
    """
    for name, text in (("--by", by), ("--because", because)):
        try:
            refuse_odd_text(text)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
    folder = path.resolve().parent.parent
    with exclusive(folder):
        row = read_row(path)
        count = len(standing(row))
        if not count:
            raise UserError(f"{path}: nothing stands against this row")
        word = Cleared(by=by, because=because, created=now())
        cleared = tuple(d if d.cleared else d.model_copy(update={"cleared": word}) for d in _disputes(row))
        _rewrite(folder, row, cleared)
    return count


def digest(path: Path) -> str:
    """Return the digest of a row's file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _disputes(row: Row) -> tuple[Dispute, ...]:
    return row.submission.disputes if row.submission else ()


def _rewrite(folder: Path, row: Row, disputes: tuple[Dispute, ...]) -> None:
    assert row.submission is not None
    submission = row.submission.model_copy(update={"disputes": disputes})
    write_row(folder, row.model_copy(update={"submission": submission}))
    write_files(load_board(folder), folder)
