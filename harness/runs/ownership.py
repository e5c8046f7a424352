"""A leaderboard folder belongs to one suite with its models and images: checked before anything is written into it."""

from __future__ import annotations

from pathlib import Path

from harness.records.pinned import PinnedSuite
from harness.records.rows import read_clean, read_rows, write_clean, write_row
from harness.suites.versions import begin
from zoo.errors import UserError


def own_folder(folder: Path, pinned: PinnedSuite) -> PinnedSuite:
    """Write the suite's record into its folder and return it, or refuse a folder that holds the rows of another.

    Targets come one by one as their weights are published or built: one that is new here joins the rows that are there, as a
    cell that is still missing; one that is known here but not on this machine keeps its place.

    Raises:
        UserError: the folder holds rows of another suite.
    """
    known = PinnedSuite.read(folder) if (folder / "suite.yaml").is_file() else None
    for substitute, why in pinned.redefined(known).items() if known else ():
        if any((folder / "rows").glob(f"{substitute}--*.json")):
            raise UserError(
                f"{folder} holds rows of another {substitute}: {why}; give it another name, raise the suite's version "
                f"(harness suite bump {pinned.suite.name} --because ...), or choose another folder with --out"
            )
    if known is not None and known.digest != pinned.digest:
        pinned = pinned.completed(known)
        if known.completed(pinned).digest == pinned.digest:
            for row in read_rows(folder):
                if row.suite_digest == known.digest != pinned.digest:
                    write_row(folder, row.model_copy(update={"suite_digest": pinned.digest}))
            _adopt_clean(folder, known.digest, pinned.digest)
        elif any((folder / "rows").glob("*.json")):
            name = pinned.suite.name
            raise UserError(
                f"{folder} holds rows of another {name} (digest {known.digest[:12]}, now {pinned.digest[:12]}): "
                f"{pinned.change_from(known)}; raise the suite's version (harness suite bump {name} --because ...), "
                f"or choose another folder with --out"
            )
    pinned = pinned if known is None else pinned.keeping(known)
    pinned.write(folder)
    if folder.name == f"v{pinned.suite.version}":
        begin(folder, pinned.suite)
    return pinned


def _adopt_clean(folder: Path, before: str, now: str) -> None:
    """Keep the clean predictions of targets that are what they were when others join them."""
    if (folder / "clean.json").is_file():
        clean = read_clean(folder)
        if clean.suite_digest == before != now:
            write_clean(folder, clean.model_copy(update={"suite_digest": now}))
