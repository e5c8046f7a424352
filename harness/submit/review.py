"""What a pull request brings, told by trusted code that reads its files and imports none of them.

A submission is one bundle below `submissions/` and nothing else. Rows are never taken from a pull request: where the suite is
small enough, they are made here, from the bundle, on a copy of the base branch's boards.
"""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.sandbox import printable
from harness.submit.bundle import Bundle
from harness.submit.flags import flags
from harness.submit.make import Notify, Walls
from harness.submit.record import read_plain, refuse_link
from zoo.errors import UserError

MAX_FILE = 64 * 2**20
MAX_FILES = 50_000
DIFF_LINES = 120
BUNDLES, BOARDS, WORKFLOWS = "submissions", "leaderboards", ".github"


@dataclass
class Review:
    """What was found."""

    warnings: list[str] = field(default_factory=list)
    """What a reader must know before anything else."""
    problems: list[str] = field(default_factory=list)
    bundle: str = ""
    made: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    diff: list[str] = field(default_factory=list)
    posted: bool = True
    """Whether the report may be posted; nothing is where the workflows themselves would change."""

    @property
    def markdown(self) -> str:
        """The report as Markdown, in which nothing that was submitted is more than text."""
        lines = []
        if self.warnings:
            lines += ["**Read this first:**", "", *_fenced(self.warnings)]
        lines += ["## Review of the submission", ""]
        if self.problems:
            lines += ["It cannot be merged as it is:", "", *_fenced(self.problems)]
        elif self.bundle:
            lines += ["The bundle is whole, and brings nothing else:", "", *_fenced([self.bundle])]
        if self.flags:
            lines += ["A person should look at:", "", *_fenced(self.flags)]
        if self.made:
            lines += ["CraftedImages here from the bundle:", "", *_fenced(self.made)]
        if self.diff:
            lines += ["The board would change like this:", "", *_fenced(self.diff)]
        return "\n".join(lines) + "\n"


def review(
    base: Path, head: Path, make: Sequence[str] = (), walls: Walls | None = None, workers: int = 1, notify: Notify | None = None
) -> Review:
    """Compare a checkout of a pull request with one of its base branch.

    Args:
        base: the base branch's files.
        head: the pull request's.
        make: suites that are small enough for their rows to be made here.
        walls: how submitted code is walled in.
        workers: sandboxes and processes at a time.
        notify: called with the progress.
    """
    found = Review()
    try:
        before, after = files(base), files(head)
        changed = sorted(name for name in before | after if _differs(name, base, head, before, after))
    except UserError as error:
        found.problems.append(printable(str(error)))
        return found
    _sort_out(changed, before, after, found)
    bundles = sorted({"/".join(Path(name).parts[:2]) for name in changed if name.startswith(f"{BUNDLES}/")})
    if len(bundles) != 1:
        count = f"{len(bundles)} bundles" if bundles else "no bundle"
        found.problems.append(f"it brings {count} below {BUNDLES}/; a submission is one")
    if not found.problems:
        try:
            _open(head / bundles[0], found)
            if not found.problems:
                _make(head / bundles[0], base / BOARDS, make, walls or Walls(), workers, notify, found)
        except UserError as error:
            found.problems.append(printable(f"{bundles[0]}: {error}".replace(f"{head}/", "")))
    return found


def files(root: Path) -> set[str]:
    """Return all files below a folder but for git's own, refusing links and whatever else is not a plain file.

    Raises:
        UserError: there is such a thing, or there are too many.
    """
    found: set[str] = set()
    for folder, folders, names in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if name != ".git"]
            names = [name for name in names if name != ".git"]
        for name in [*folders, *names]:
            refuse_link(Path(folder) / name)
        found |= {(Path(folder) / name).relative_to(root).as_posix() for name in names}
        if len(found) > MAX_FILES:
            raise UserError(f"there are more than {MAX_FILES} files")
    return found


def _differs(name: str, base: Path, head: Path, before: set[str], after: set[str]) -> bool:
    if name not in before or name not in after:
        return True
    one, other = base / name, head / name
    return one.stat().st_size != other.stat().st_size or read_plain(one, MAX_FILE) != read_plain(other, MAX_FILE)


def _sort_out(changed: Sequence[str], before: set[str], after: set[str], found: Review) -> None:
    """Name what a submission may not do; a rename is a file that goes and a file that comes."""
    if any(name.split("/")[0] == WORKFLOWS for name in changed):
        found.posted = False
        found.warnings.append(f"it changes {WORKFLOWS}/: nothing that its workflows say of it can be trusted")
    others = [name for name in changed if name.split("/")[0] not in (BUNDLES, BOARDS)]
    if others:
        found.warnings.append(f"it also changes {len(others)} file(s) elsewhere: look at those before you trust this report")
    for name in changed:
        where = name.split("/")[0]
        if where == BOARDS:
            found.problems.append(f"{printable(name)}: rows and boards are made by trusted code, never taken from a pull request")
        elif where != BUNDLES:
            found.problems.append(f"{printable(name)}: a submission changes nothing outside {BUNDLES}/")
        elif name in before:
            verb = "changed" if name in after else "removed"
            found.problems.append(f"{printable(name)}: is {verb}; a submission adds a bundle and leaves the others alone")
    known = {"/".join(Path(name).parts[:2]) for name in before if name.startswith(f"{BUNDLES}/")}
    for name in changed:
        if name not in before and "/".join(Path(name).parts[:2]) in known:
            found.problems.append(f"{printable(name)}: is added to another's bundle")


def _open(path: Path, found: Review) -> None:
    """Read a bundle as text, and say what it is."""
    bundle = Bundle(path)
    source, manifest = bundle.source(), bundle.manifest
    name = f"{source.submission.name}--{manifest.suite}"
    if path.name not in (name, f"{name}.zip"):
        found.problems.append(f"it is called {printable(path.name)}, and should be {name} or {name}.zip")
    for part in manifest.parts:  # damage shows now, not after an hour of work
        bundle.read(part, manifest.parts[part].size)
    authors = ", ".join(source.submission.authors)
    kind = f"{len(source.files)} Python file(s)" if source.files else "images"
    found.bundle = f"{name} v{manifest.suite_version} by {authors}: {kind}, {len(manifest.jobs)} substitute(s) x seed(s)"
    found.flags += flags(source)


def _make(
    path: Path, boards: Path, make: Sequence[str], walls: Walls, workers: int, notify: Notify | None, found: Review
) -> None:
    """Make the rows of a bundle on a copy of the boards, and say how the board would change."""
    from harness.submit.add import add

    manifest = Bundle(path).manifest
    if manifest.suite not in make:
        found.made.append(f"nothing: {manifest.suite} is too large to be made here; a maintainer runs harness submit add")
        return
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / BOARDS
        if boards.is_dir():
            shutil.copytree(boards, out, ignore=shutil.ignore_patterns(".lock"))
        else:
            out.mkdir()
        before = {p.relative_to(out): p.read_text(encoding="utf-8").splitlines() for p in out.glob("*/v*/board.md")}
        added = add(path, out, walls=walls, workers=workers, notify=notify)
        after = (added.folder / "board.md").read_text(encoding="utf-8").splitlines()
        old = before.get((added.folder / "board.md").relative_to(out), [])
    found.flags += [flag for flag in added.flags if flag not in found.flags]
    found.made += [f"{row.name} (evidence: {added.evidence})" for row in added.written] + added.remarks
    found.diff += list(difflib.unified_diff(old, after, "before", "after", n=0, lineterm=""))[:DIFF_LINES]


def _fenced(lines: Sequence[str]) -> list[str]:
    """Return lines as a block of code that they cannot leave."""
    return ["~~~~~~text", *(printable(line).replace("~~~", "~ ~")[:400] for line in lines[:200]), "~~~~~~", ""]
