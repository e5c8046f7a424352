"""One run at a time in a folder, and nothing left behind by runs that were killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, ReadWriteLock, Timeout

from harness.storage.files import cannot, sweep
from zoo.errors import UserError


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for one process, swept clean; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    _make(folder, "--out")
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another run is at work in {folder}; wait for it to end, or choose another folder with --out"
        ) from None
    except NotImplementedError:  # a file system without locks: to keep runs apart is then left to the user
        pass
    except OSError as error:
        raise cannot("write into", folder, error, "--out") from error
    try:
        sweep(folder)
        yield
    finally:
        lock.release()


@contextmanager
def cache_in_use(folder: Path) -> Iterator[None]:
    """Hold a cache folder together with other runs; the first one to come sweeps what killed runs left there.

    Raises:
        UserError: the folder cannot be written.
    """
    _make(folder, "$ZOO_CACHE")
    lock = ReadWriteLock(folder / ".in-use", is_singleton=False)
    try:
        _sweep_if_first(lock, folder)
        lock.acquire_read()
    except (OSError, sqlite3.Error) as error:
        lock.close()
        raise cannot("write into", folder, OSError(str(error)), "$ZOO_CACHE") from error
    try:
        yield
    finally:
        lock.release()
        lock.close()


def _sweep_if_first(lock: ReadWriteLock, folder: Path) -> None:
    try:
        with lock.write_lock(blocking=False):
            sweep(folder)
    except Timeout:  # others are at work, and swept when they came
        pass


def _make(folder: Path, choice: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot("write into", folder, error, choice) from error
