"""Files that are whole or not there: atomic writes, and reads that say which file and which key is broken."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from zoo.errors import MachineError, UserError
from zoo.hub.whole import replacing
from zoo.registry.entry import Record

_FIXES = {
    errno.EACCES: "give yourself write permission there, or choose another folder with {choice}",
    errno.EPERM: "give yourself write permission there, or choose another folder with {choice}",
    errno.EROFS: "that file system is read-only: choose another folder with {choice}",
    errno.ENOSPC: "the disk is full: free some space, or choose another folder with {choice}",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder with {choice}",
    errno.ENOTDIR: "a part of the path is a file: move it away, or choose another folder with {choice}",
    errno.EISDIR: "there is a folder of that name: move it away, or choose another folder with {choice}",
    errno.ENAMETOOLONG: "choose a folder with a shorter path",
}

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
R = TypeVar("R", bound=Record)


def atomic_write(path: Path, data: str | bytes, choice: str = "--out") -> None:
    """Write `data` to `path` so that readers see the old file or the new one, never a part.

    The data goes to a temporary file in the same folder, is flushed to the disk and renamed. Missing parent folders are
    made. Text is written as UTF-8 with its line ends as they are. Whatever goes wrong, Ctrl-C included, no temporary
    file stays; an OSError becomes a MachineError that names the file and the fix, such as another folder with `choice`.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        with replacing(path, durable=True) as stream:
            stream.write(content)
    except OSError as error:
        raise cannot("write", path, error, choice) from error
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there; an OSError becomes a MachineError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot("remove", path, error) from error


def sweep(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; only for who holds the folder alone."""
    for path in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            remove(path)


def cannot(verb: str, path: Path, error: OSError, choice: str = "--out") -> MachineError:
    """Return the error that says what cannot be done to a file, why, and the fix."""
    fix = _FIXES.get(error.errno or 0, "mend that, or choose another folder with {choice}").format(choice=choice)
    return MachineError(f"cannot {verb} {path}: {error.strerror or error}; {fix}")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the system allows it; some file systems refuse to sync a folder, which loses nothing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of `path`; a UserError names the file when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check its permissions and its disk") from error


def read_record(path: Path, kind: type[R], fix: str) -> R:
    """Read a JSON file into a record of `kind`; a UserError names the file, the first wrong key, and the given fix."""
    try:
        return kind.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}; {fix}") from error


def describe(error: ValidationError) -> str:
    """Say in one line which key of a record is wrong and why, and how many more are."""
    errors = error.errors(include_url=False)
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{key}: {message[0].lower()}{message[1:]}{more}"
