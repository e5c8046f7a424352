"""One run at a time in a folder, and nothing left behind by runs that were killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.files import cannot, sweep
from zoo.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system: no lock to take
    fcntl = None  # type: ignore[assignment]


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for one process, swept clean; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    descriptor = _open(folder, "--out")
    try:
        if not _lock(descriptor, alone=True):
            raise UserError(f"another run is at work in {folder}; wait for it to end, or choose another folder with --out")
        sweep(folder)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def cache_in_use(folder: Path) -> Iterator[None]:
    """Hold a cache folder together with other runs; the first one to come sweeps what killed runs left there.

    Raises:
        UserError: the folder cannot be written.
    """
    descriptor = _open(folder, "$ZOO_CACHE")
    try:
        if _lock(descriptor, alone=True):
            sweep(folder)
        _lock(descriptor, alone=False)
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path, choice: str) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot("write into", folder, error, choice) from error


def _lock(descriptor: int, alone: bool) -> bool:
    """Lock an open file: alone, or return False when someone is in the way; or with others, waiting for one who is alone."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: to keep runs apart is then left to the user
            return True
    return True
