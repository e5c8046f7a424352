"""Versions of a suite: each with a folder of its own, and a line that says what it changed; imports no torch."""

from __future__ import annotations

import re
import time
from pathlib import Path

from harness.storage.files import atomic_write, read_bytes
from harness.suites import suite as suites
from harness.suites.suite import Suite
from zoo.errors import UserError

CHANGELOG = "CHANGELOG.md"
_VERSION = re.compile(r"^version:[ \t]*\d+[ \t]*(#.*)?$", re.MULTILINE)
_LINE = re.compile(r"^- v(\d+)\b.*$", re.MULTILINE)


def bump(name: str, because: str, out: Path) -> Suite:
    """Raise a suite's version in its file, and say why in the changelog of the new version's leaderboard folder.

    Older versions stay as they are: their folders hold the suite as it was, to be shown, run and reproduced.

    Args:
        name: a suite that ships with the package, or the path of its file.
        because: what changes, and what that does to the numbers; one line.
        out: folder of the leaderboards.

    Raises:
        UserError: no such suite, one of an installed package, a file without a version of its own, an empty reason, or a
            folder that cannot be written.
    """
    path = suites.find(name)
    check_own(path)
    suite = suites.load(name)
    text = read_bytes(path).decode()
    reason = " ".join(because.split())
    if not reason:
        raise UserError("say in one line what changed and what that does to the numbers: --because TEXT")
    found = _VERSION.findall(text)
    if re.search(r"^digest:", text, re.MULTILINE) or len(found) != 1:
        raise UserError(
            f"{path} states no version of its own (it is the record of a run, or includes it); bump the suite's own file"
        )
    version = suite.version + 1
    folder = out / suite.name / f"v{version}"
    if (folder / "suite.yaml").is_file():
        raise UserError(f"{folder} holds results of version {version} already; the suite's file is behind: set its version there")
    lines = {**_lines(out / suite.name / f"v{suite.version}"), version: f"- v{version} ({time.strftime('%Y-%m-%d')}): {reason}"}
    _write(folder, suite.name, {1: "- v1: first version", **lines})
    atomic_write(path, _VERSION.sub(lambda m: f"version: {version}{'  ' + m[1] if m[1] else ''}", text), choice="its permissions")
    return suites.load(name)


def check_own(path: Path) -> None:
    """Refuse the file of a suite that an installed package brought; in a checkout of the project all are its own.

    Raises:
        UserError: it is one.
    """
    shipped = path.resolve().parent == suites.FOLDER.resolve()
    if shipped and not (suites.FOLDER.parent.parent / "pyproject.toml").is_file():
        raise UserError(
            f"{path} belongs to the installed package, whose next version would replace it; write it down as a suite of your own "
            f"(harness suite show {path.stem} > mine.yaml), give that another name, and bump mine.yaml"
        )


def begin(folder: Path, suite: Suite) -> None:
    """Give a leaderboard folder its changelog, if it has none: what the version before says, and that this is another."""
    if (folder / CHANGELOG).is_file():
        return
    before = {1: "- v1: first version", **_lines(folder.parent / f"v{suite.version - 1}")}
    _write(folder, suite.name, {**before, **({suite.version: f"- v{suite.version}"} if suite.version > 1 else {})})


def _lines(folder: Path) -> dict[int, str]:
    path = folder / CHANGELOG
    text = read_bytes(path).decode(errors="replace") if path.is_file() else ""
    return {int(line[1]): line[0] for line in _LINE.finditer(text)}


def _write(folder: Path, name: str, lines: dict[int, str]) -> None:
    body = "\n".join(lines[version] for version in sorted(lines, reverse=True))
    atomic_write(folder / CHANGELOG, f"# {name}\n\n{body}\n")
