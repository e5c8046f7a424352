"""The digest chain of a leaderboard: an append-only list of its rows' digests, each bound to all before it; imports no torch.

`chain.jsonl` has one line for each time that a row was written or withdrawn. A row that was changed, added or removed by
hand, and an entry that was changed, dropped or moved, no longer fit. Whoever rewrites the whole chain is found by
comparing with an older copy (`extends`): version control keeps one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from harness.storage.files import atomic_write, read_bytes
from zoo.errors import UserError
from zoo.registry.entry import Record, Sha256

FILE = "chain.jsonl"
START = "0" * 64


class Link(Record):
    """One entry of the chain."""

    row: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*\.json$", max_length=255)]
    """File name of the row."""
    sha256: Sha256 | None = Field()
    """Digest of the row's file; null when the row was withdrawn."""
    link: Sha256
    """Digest of the link before, the file name and the digest."""


def append(folder: Path, row: str, sha256: str | None) -> None:
    """Record that `folder`/rows/`row` now has this digest, or is withdrawn; nothing happens when that stands there last."""
    links = read(folder)
    latest = {link.row: link.sha256 for link in links}
    if latest.get(row) == sha256:
        return
    before = links[-1].link if links else START
    link = Link(row=row, sha256=sha256, link=_bind(before, row, sha256))
    text = read_bytes(folder / FILE).decode() if links else ""
    atomic_write(folder / FILE, text + link.model_dump_json() + "\n")


def read(folder: Path) -> list[Link]:
    """Return the entries of a folder's chain; none when it has no chain.

    Raises:
        UserError: a line is no entry; the message gives its number.
    """
    path = folder / FILE
    return parse(read_bytes(path).decode(errors="replace")) if path.is_file() else []


def parse(text: str) -> list[Link]:
    """Return the entries that a chain's text holds."""
    links = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            links.append(Link.model_validate_json(line))
        except ValidationError as error:
            raise UserError(f"line {number} of {FILE} is no entry; restore the file from version control") from error
    return links


def check(folder: Path) -> list[str]:
    """Return how a folder's rows and its chain disagree; empty when they fit."""
    files = {p.name: hashlib.sha256(read_bytes(p)).hexdigest() for p in sorted((folder / "rows").glob("*.json"))}
    try:
        links = read(folder)
    except UserError as error:
        return [f"{folder}: {error}"]
    if files and not links:
        return [f"{folder / FILE} is missing, so nobody can tell whether rows were changed; restore it from version control"]
    problems = []
    before = START
    for number, link in enumerate(links, 1):
        if link.link != _bind(before, link.row, link.sha256):
            problems.append(
                f"{folder / FILE}: line {number} ({link.row}) does not follow from the lines before it: an entry was changed, "
                "removed, added or moved"
            )
            break
        before = link.link
    latest = {link.row: link.sha256 for link in links}
    for name, digest in files.items():
        if latest.get(name) is None:
            problems.append(f"{folder / 'rows' / name} is not recorded in {FILE}: it was not written by harness")
        elif latest[name] != digest:
            problems.append(f"{folder / 'rows' / name} was changed after it was recorded in {FILE}")
    gone = sorted(name for name, digest in latest.items() if digest is not None and name not in files)
    problems += [f"{folder / 'rows' / name} is recorded in {FILE} but gone; restore it, or withdraw it" for name in gone]
    return problems


def extends(old: str, new: str) -> bool:
    """Whether a chain's new text only adds to the old one."""
    return new.startswith(old)


def _bind(before: str, row: str, sha256: str | None) -> str:
    return hashlib.sha256(json.dumps([before, row, sha256]).encode()).hexdigest()
