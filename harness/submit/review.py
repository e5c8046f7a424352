"""What a pull request does to the leaderboards, told by trusted code that reads its files and runs none of them.

With a share of blocks to verify, the submitted code is run behind the walls of the sandbox.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from harness.board import check as check_board
from harness.records import chain
from harness.records.pinned import PinnedSuite
from harness.records.rows import Row, read_rows
from harness.sandbox import printable
from harness.submit.add import SUBMISSIONS
from harness.submit.claim import MAX_ROW, read_claim
from harness.submit.make import Walls
from harness.submit.naming import refuse_taken, reserved
from harness.submit.record import FILE, read_folder, read_plain, refuse_link
from zoo.errors import UserError

MAX_FILE = 64 * 2**20
MAX_FILES = 20000
DIFF_LINES = 120
NEW = re.compile(rf"rows/[a-z0-9][a-z0-9.-]*\.json|{SUBMISSIONS}/[a-z0-9][a-z0-9.-]*/({FILE}|[a-z_][a-z0-9_]*\.py)")
LOCK = ".lock"
BOARD = ("board.md", "board.csv", "board.json")
"""Files that are held against the rows, byte by byte."""


@dataclass
class Review:
    """What was found."""

    problems: list[str] = field(default_factory=list)
    added: list[tuple[Path, Row]] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    diff: list[str] = field(default_factory=list)

    @property
    def markdown(self) -> str:
        """The report as Markdown, in which nothing that was submitted is more than text."""
        lines = ["## Review of the submission", ""]
        if self.problems:
            lines += ["It cannot be merged as it is:", "", *_fenced(self.problems)]
        else:
            lines += ["Files, digests, chain, budget and board agree.", ""]
        if self.added:
            listed = [f"{r.filename}: {r.images} images, {len(r.outcomes)} targets, {r.evidence}" for _, r in self.added]
            lines += ["New rows:", "", *_fenced(listed)]
        if self.verdicts:
            lines += ["Crafted anew and compared:", "", *_fenced(self.verdicts)]
        if self.diff:
            lines += ["The board changes like this:", "", *_fenced(self.diff)]
        return "\n".join(lines) + "\n"


def review(base: Path, head: Path, fraction: float = 0.0, walls: Walls | None = None) -> Review:
    """Compare the leaderboards in `head` with those in `base`."""
    found = Review()
    try:
        before, after = _files(base), _files(head)
    except UserError as error:
        found.problems.append(str(error))
        return found
    for name in sorted(before | after):
        reason = _change(name, base / name if name in before else None, head / name if name in after else None)
        if reason is not None:
            found.problems.append(f"{name}: {reason}")
    if found.problems:
        return found  # what comes next reads the files
    for folder in sorted({"/".join(n.split("/")[:2]) for n in after if _differs(base / n, head / n)}):
        try:
            _review_board(base / folder, head / folder, found)
        except UserError as error:
            found.problems.append(f"{folder}: {error}")
    attacks = sorted({row.attack for _, row in found.added})
    if len(attacks) > 1:
        found.problems.append(f"it adds {len(attacks)} submissions ({', '.join(attacks)}); one pull request adds one")
    if not found.added and not found.problems:
        found.problems.append("it adds no row")
    if fraction and not found.problems:
        _verify(found, fraction, walls or Walls())
    return found


def _files(root: Path) -> set[str]:
    """Return all files below a folder, refusing links and whatever else is not a plain file."""
    found: set[str] = set()
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            refuse_link(Path(folder) / name)
        found |= {(Path(folder) / name).relative_to(root).as_posix() for name in files if name != LOCK}
        if len(found) > MAX_FILES:
            raise UserError(f"{root} holds more than {MAX_FILES} files")
    return found


def _differs(before: Path, after: Path) -> bool:
    return not before.is_file() or read_plain(before, MAX_FILE) != read_plain(after, MAX_FILE)


def _change(name: str, before: Path | None, after: Path | None) -> str | None:
    """Return why a pull request may not change a file as it does; None when it may."""
    parts = name.split("/")
    if after is None:
        return "is removed; a submission removes nothing"
    if len(parts) < 3:
        return None if before is not None and not _differs(before, after) else "has no place among the leaderboards"
    if before is not None and not _differs(before, after):
        return None
    file = parts[2]
    if file == chain.FILE and before is not None:
        old, new = (read_plain(p, MAX_FILE).decode(errors="replace") for p in (before, after))
        return None if chain.extends(old, new) else "rewrites history; the chain only grows"
    if file in BOARD and len(parts) == 3:
        return None
    if before is not None:
        return "is changed; a submission changes no row and no setting"
    return None if NEW.fullmatch("/".join(parts[2:])) else "is new; a submission adds rows and its own source to a board"


def _review_board(base: Path, head: Path, found: Review) -> None:
    """Check one leaderboard of the pull request."""
    pinned = PinnedSuite.read(base)
    old = {p.name for p in (base / "rows").glob("*.json")}
    names: set[str] = set()
    for path in sorted((head / "rows").glob("*.json")):
        if path.name in old:
            continue
        count = min(_limit(head) or pinned.images, pinned.images)
        row = read_claim(read_plain(path, MAX_ROW), pinned.suite.target_names, count, path.name)
        _check_row(row, path, head, pinned)
        found.added.append((path, row))
        names.add(row.attack)
    sources = [{p.name for p in (f / SUBMISSIONS).glob("*")} for f in (base, head)]
    for name in sorted((sources[1] - sources[0]) ^ names):
        found.problems.append(f"{SUBMISSIONS}/{name} and new rows of {name!r} come together, or not at all")
    for name in sorted(sources[0]):
        old_files, new_files = ({p.name for p in (f / SUBMISSIONS / name).glob("*")} for f in (base, head))
        if new_files - old_files:
            found.problems.append(f"{SUBMISSIONS}/{name}: a file is added to another's source")
    taken = sorted({row.attack for row in read_rows(base)})
    for name in sorted(names):
        refuse_taken(name, reserved(), "an attack or model of the harness")
        refuse_taken(name, [t for t in taken if t != name], "an attack on this board")
    found.problems += check_board(head)
    old_board, new_board = ((f / "board.md").read_text(encoding="utf-8").splitlines() for f in (base, head))
    found.diff += list(difflib.unified_diff(old_board, new_board, "before", "after", n=0, lineterm=""))[:DIFF_LINES]


def _limit(folder: Path) -> int | None:
    """Return how many images a board's folder is about by its name (v1-limit50), or None for all of them."""
    _, _, limit = folder.name.partition("-limit")
    return int(limit) if limit.isdigit() else None


def _check_row(row: Row, path: Path, folder: Path, pinned: PinnedSuite) -> None:
    """Refuse a new row that is not of this suite, or not of a submission whose source is stored with it.

    Raises:
        UserError: so it is.
    """
    if row.filename != path.name:
        raise UserError(f"{path.name} holds the row of {row.filename}")
    if row.suite_digest != pinned.digest:
        raise UserError(f"{path.name} was made for other targets or images")
    if row.max_level > pinned.suite.budget.levels:
        raise UserError(f"{path.name}: its images differ by {row.max_level} levels, the budget is {pinned.suite.budget.levels}")
    if row.submission is None:
        raise UserError(f"{path.name} names no submission; harness submit add writes such rows")
    source = read_folder(folder / SUBMISSIONS / row.attack)
    submission = source.submission
    same = submission.name == row.attack and submission.authors == row.submission.authors
    if not same or source.sha256 != row.submission.source_sha256 or source.composition != row.composition:
        raise UserError(f"{path.name}: {SUBMISSIONS}/{row.attack} is not the source that it names")


def _verify(found: Review, fraction: float, walls: Walls) -> None:
    from harness.submit.verify import verify

    for path, row in found.added:
        if row.submission is None or row.submission.source_sha256 is None:
            found.verdicts.append(f"{row.filename}: only images were submitted; score its bundle by hand")
            continue
        try:
            result = verify(path, fraction, walls=walls)
        except UserError as error:
            found.problems.append(f"{row.filename}: {error}")
            continue
        found.verdicts += [f"{f.verdict}: {row.filename}: {f.detail}" for f in result.findings]
        if not result.holds:
            found.problems.append(f"{row.filename} does not hold when it is made again")


def _fenced(lines: list[str]) -> list[str]:
    """Return lines as a block of code that they cannot leave."""
    return ["~~~~~~text", *(printable(line).replace("~~~", "~ ~")[:400] for line in lines[:200]), "~~~~~~", ""]
