"""The folder of verified files: content-addressed, so that a name in it can only mean the bytes that it names.

    blobs/<sha256>        a verified file
    blobs/<sha256>.json   its stamp: size, times and origin; while these are unchanged the file need not be hashed again
    partial/<key>         an unfinished download, never handed out
    refs/<key>.json       the sha256 of a pinned source that the registry gives no hash for, recorded at its first download
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.hub.whole import write_whole

ENVIRONMENT = "ZOO_CACHE"
"""Environment variable that moves the cache; otherwise it is `zoo` in $XDG_CACHE_HOME or ~/.cache."""


def default_folder() -> Path:
    """Return the cache folder that the environment asks for; it need not exist.

    Raises:
        UserError: a file is in its place.
    """
    chosen, base = os.environ.get(ENVIRONMENT), os.environ.get("XDG_CACHE_HOME")
    folder = Path(chosen).expanduser() if chosen else (Path(base) if base else Path.home() / ".cache") / "zoo"
    if blocking := next((p for p in (folder, *folder.parents) if p.is_file()), None):
        raise UserError(f"the cache cannot be {folder}: {blocking} is a file; set {ENVIRONMENT} to a folder")
    return folder


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def key_of(text: str) -> str:
    """Return a file name for any text, such as a URL."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """The sha256 that a source without one in the registry had when its bytes were first accepted."""

    source: str
    sha256: str
    path: Path


@dataclass(frozen=True)
class Held:
    """One verified file of the cache, or with `partial` an unfinished download."""

    key: str
    path: Path
    size: int
    source: str
    partial: bool = False


class Cache:
    """Verified files by sha256."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def blob(self, sha256: str) -> Path:
        """Return where the file of that hash is or would be."""
        return self.folder / "blobs" / sha256

    def part(self, key: str) -> Path:
        """Return where an unfinished download lies."""
        path = self.folder / "partial" / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to the cache {self.folder} ({error}); set {ENVIRONMENT} to another folder") from None
        return path

    def find(self, sha256: str) -> Path | None:
        """Return the verified file of that hash, or None; a file that was altered since is removed."""
        path = self.blob(sha256)
        if not path.is_file():
            return None
        stamp = self._stamp(path)
        if stamp.get("state") == state_of(path) or self._restamp(path, stamp):
            return path
        path.unlink(missing_ok=True)  # and nothing else: another process may be downloading it
        path.with_name(f"{sha256}.json").unlink(missing_ok=True)
        return None

    def intact(self, sha256: str) -> bool:
        """Return whether the file of that hash has that hash, reading every byte of it."""
        return sha256_of(self.blob(sha256)) == sha256

    def admit(self, part: Path, sha256: str, source: str) -> Path:
        """Move a file whose hash the caller has just computed under its trusted name."""
        path = self.blob(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
        self._write_stamp(path, {"source": source})
        return path

    def _restamp(self, path: Path, stamp: dict[str, Any]) -> bool:
        if sha256_of(path) != path.name:
            return False
        self._write_stamp(path, stamp)
        return True

    def _write_stamp(self, path: Path, stamp: dict[str, Any]) -> None:
        with suppress(OSError):  # in a cache that others own, the file is hashed each time instead
            write_whole(path.with_name(f"{path.name}.json"), json.dumps({**stamp, "state": state_of(path)}).encode())

    def _stamp(self, path: Path) -> dict[str, Any]:
        return read_json(path.with_name(f"{path.name}.json"))

    def recorded(self, source: str) -> str | None:
        """Return the sha256 that a source had when it was first fetched, or None."""
        return read_json(self.folder / "refs" / f"{key_of(source)}.json").get("sha256")

    def record(self, source: str, sha256: str) -> None:
        """Remember the sha256 of a pinned source."""
        text = json.dumps({"source": source, "sha256": sha256})
        write_whole(self.folder / "refs" / f"{key_of(source)}.json", text.encode())

    def records(self) -> list[Record]:
        """Return what was accepted without a sha256 in the registry, by source."""
        found = [(path, read_json(path)) for path in (self.folder / "refs").glob("*.json")]
        records = [Record(str(r.get("source", "")), str(r.get("sha256", "")), path) for path, r in found]
        return sorted(records, key=lambda record: record.source)

    def __iter__(self) -> Iterator[Held]:
        for path in sorted((self.folder / "blobs").glob("*")):
            if path.suffix != ".json" and not path.name.startswith("."):
                yield Held(path.name, path, path.stat().st_size, str(self._stamp(path).get("source", "")))
        for path in sorted((self.folder / "partial").glob("*")):
            if path.suffix != ".lock":
                yield Held(path.name, path, path.stat().st_size, "", partial=True)

    def remove(self, key: str) -> int:
        """Remove a file, verified or partial, and return the bytes freed."""
        freed = 0
        for path in (self.blob(key), self.folder / "partial" / key):
            if path.is_file():
                freed += path.stat().st_size
                path.unlink()
        self.blob(key).with_name(f"{key}.json").unlink(missing_ok=True)
        return freed

    def forget(self, sha256: str) -> None:
        """Drop the records that name a file, so that another may be accepted in its place."""
        for record in self.records():
            if record.sha256 == sha256:
                record.path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return what a small file of the cache says, or nothing when it is missing or spoilt."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def state_of(path: Path) -> list[int]:
    """Return what changes when a file is written to; the change time cannot be set back by a program."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
