"""Names that a board, or any board beside it, has given away: for good, since rows are quoted by them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.records import chain
from harness.records.rows import Row, read_rows
from harness.submit.claim import Claim
from harness.submit.naming import refuse_taken, reserved
from harness.submit.record import FILE
from zoo.errors import UserError

SUBMISSIONS = "submissions"
CLAIMED = "--claimed.json"


def boards(out: Path) -> list[Path]:
    """Return the folders of all boards below the folder of the leaderboards."""
    return sorted(p.parent for p in out.glob("*/v*/suite.yaml"))


def attack_of(filename: str) -> str | None:
    """Return the attack that a row's file name tells; None for a mere claim, which blocks nobody, and for what is no row's."""
    parts = filename.split("--")
    return parts[1] if len(parts) >= 3 and not filename.endswith(CLAIMED) else None


def ever(out: Path) -> dict[str, Path]:
    """Return every attack that a board's chain knows, withdrawn ones included, and the board."""
    found: dict[str, Path] = {}
    for folder in boards(out):
        for link in chain.read(folder):
            name = attack_of(link.row)
            if name is not None:
                found.setdefault(name, folder)
    return found


def evident(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that are more than a claim."""
    return [row for row in rows if row.evidence != "claimed"]


def check_name(claim: Claim, known: Sequence[Row], folder: Path, out: Path) -> None:
    """Refuse a name that is taken on any board, looks like one that is, or is this submission's under other content.

    Raises:
        UserError: so it is.
    """
    name = claim.source.submission.name
    refuse_taken(name, reserved(), "an attack or model of the harness")
    names = ever(out)
    others = sorted({row.attack for row in evident(known)} - {name})
    refuse_taken(name, others, "an attack on this board")
    refuse_taken(name, sorted(names.keys() - {name}), "an attack on another board, or one that was withdrawn")
    mine = [row for row in evident(known) if row.attack == name]
    if mine and mine[0].submission is None:
        raise UserError(f"the name {name!r} is taken by an attack on this board; choose another")
    stored = folder / SUBMISSIONS / name / FILE
    same = {row.composition for row in mine} <= {claim.source.composition}
    if not same or (mine and stored.is_file() and stored.read_bytes() != claim.bundle.read(f"source/{FILE}")):
        raise UserError(f"{name!r} is on this board with other code, settings or authors; an id is never reused: choose another")
    if name in names and not mine:
        _check_elsewhere(claim, name, out)


def _check_elsewhere(claim: Claim, name: str, out: Path) -> None:
    """Let a submission onto one more board only while it stands, unchanged, on another."""
    rows = [row for folder in boards(out) for row in read_rows(folder) if row.attack == name and row.evidence != "claimed"]
    if not rows:
        raise UserError(f"the name {name!r} was withdrawn from a board, and an id is never reused: choose another")
    theirs = {(row.composition, row.submission.authors if row.submission else ()) for row in rows}
    if theirs != {(claim.source.composition, claim.source.submission.authors)}:
        raise UserError(f"{name!r} is on another board with other code, settings or authors; choose another name")
