"""Rows taken off a board of one's own: the file goes, the chain keeps an entry that says so, the board is written anew."""

from __future__ import annotations

from pathlib import Path

from harness.board import Board, load, write_files
from harness.records import chain
from harness.records.rows import AbsentRows, read_absent, read_row, read_rows, write_absent
from harness.storage.files import remove
from harness.storage.lock import exclusive
from zoo.errors import UserError


def withdraw(path: Path) -> str:
    """Take a row off its board, or a row that could not be made off the list of those, and return what was done.

    A run that asks for the row makes it again.

    Args:
        path: the row's file, below the folder `rows` of its board; it need not exist when the row could not be made.

    Raises:
        UserError: there is no such row, it is a submission's, or the folder is in use or cannot be written.
    """
    folder = path.parent.parent
    if path.parent.name != "rows" or not (folder / "suite.yaml").is_file():
        raise UserError(f"{path}: name a row by its file, such as leaderboards/SUITE/v1/rows/SUBSTITUTE--ATTACK--s0.json")
    absent = read_absent(folder).rows
    left = tuple(a for a in absent if f"{a.substitute}--{a.attack}--s{a.seed}.json" != path.name)
    if not path.is_file() and len(left) == len(absent):
        raise UserError(f"{folder} has no row {path.name}, and none of that name could not be made")
    if path.is_file() and (row := read_row(path)).submission is not None:
        raise UserError(
            f"{path.name} is a submission's: harness submit withdraw {row.attack} --suite {row.suite} takes it off"
        )
    with exclusive(folder):
        words = f"{path.name}: withdrawn" if path.is_file() else f"{path.name}: no longer listed as missing"
        if path.is_file():
            remove(path)
            chain.append(folder, path.name, None)
        write_absent(folder, AbsentRows(rows=left))
        if any(read_rows(folder)):
            write_files(load(folder), folder)
        else:
            for name in Board.FILES:
                remove(folder / name)
    return words
