"""Models that were built here: where they lie, and whether they still are what `zoo build` wrote; imports no torch.

    built/NAME.safetensors   the weights; NAME.onnx of a network that was exported
    built/NAME.json          the log of the build, with the sha256 and size of the weights
    built/NAME.stamp         the state of the weights when they were last hashed; while it is unchanged they need not be again
    checkpoints/NAME.pt      a build that was stopped, and NAME.pt.snapshots beside it
    locks/NAME.lock          held by the process that builds the model
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UserError
from zoo.hub import Verdict
from zoo.hub.cache import ENVIRONMENT, read_json, sha256_of, state_of
from zoo.hub.cache import default_folder as cache_root
from zoo.hub.whole import write_whole

__all__ = ["ENVIRONMENT", "Built", "Unfinished", "all_built", "all_unfinished", "building", "built_path", "cache_root"]
__all__ += ["check_built", "checkpoint_for", "empty", "parts", "place_for", "ready", "recorded", "verified", "verified_path"]


SUFFIXES = (".safetensors", ".onnx")
"""Of the files that builds write."""


def place_for(name: str, suffix: str = ".safetensors") -> Path:
    """Return the file that `zoo build` writes for a model."""
    return cache_root() / "built" / f"{name}{suffix}"


def checkpoint_for(name: str) -> Path:
    """Return the file that a build of a model goes on from when it was stopped."""
    return cache_root() / "checkpoints" / f"{name}.pt"


@contextmanager
def building(name: str) -> Iterator[None]:
    """Hold off other processes that build the same model, which share its checkpoint; the system lets go when this one ends.

    Of the processes that a launcher started for one build, the first holds it for all.
    """
    from filelock import FileLock, Timeout

    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = cache_root() / "locks" / f"{name}.lock"
    ready(path.parent, f"set {ENVIRONMENT} to another one")
    lock = FileLock(path)
    with suppress(NotImplementedError):  # a file system without locks: to keep builds apart is then left to the user
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logging.getLogger("zoo").warning("%s: another process builds it; waiting for that one to end", name)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def ready(folder: Path, cure: str) -> None:
    """Make a folder and see that files can be written to it.

    Raises:
        UserError: they cannot; the message ends with the cure.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder} ({error.strerror}); {cure}") from error


def built_path(name: str) -> Path | None:
    """Return the file that `zoo build` made for a model, unchecked, or None."""
    return next((path for path in (place_for(name, suffix) for suffix in SUFFIXES) if path.is_file()), None)


def verified_path(name: str) -> Path | None:
    """Return the file that `zoo build` made for a model, with the bytes that it wrote, or None.

    Raises:
        UserError: the file was altered, or nothing says what its bytes should be.
    """
    path = built_path(name)
    return None if path is None else verified(path)


def recorded(path: Path) -> str | None:
    """Return the sha256 that the log beside a file of weights gives it, or None."""
    found = read_json(path.with_suffix(".json")).get("sha256")
    return found if isinstance(found, str) else None


def verified(path: Path) -> Path:
    """Return a file of weights after holding its bytes against the log beside it, which is where a build records them.

    Raises:
        UserError: they differ, or the log records none.
    """
    stated = recorded(path)
    if stated is None:
        raise UserError(f"{path}: no {path.stem}.json beside it records its sha256; zoo build {path.stem} makes both anew")
    stamp = path.with_suffix(".stamp")
    known = {"sha256": stated, "state": state_of(path)}
    if read_json(stamp) == known:
        return path
    if (digest := sha256_of(path)) != stated:
        raise UserError(
            f"{path}: has sha256 {digest} and was built with {stated}: it was altered; zoo build {path.stem} makes it anew"
        )
    with suppress(OSError):  # in a folder that others own, the file is hashed each time instead
        write_whole(stamp, json.dumps(known).encode())
    return path


@dataclass(frozen=True)
class Built:
    """One model that was built here. `sha256` is what its log records, null when there is none."""

    name: str
    path: Path
    size: int
    sha256: str | None

    def remove(self) -> int:
        """Remove the file and what lies beside it, and return the bytes freed."""
        self.path.unlink(missing_ok=True)
        for suffix in (".json", ".stamp"):
            self.path.with_suffix(suffix).unlink(missing_ok=True)
        return self.size


def all_built() -> list[Built]:
    """Return the models that were built into the cache, unchecked, by name."""
    folder = cache_root() / "built"
    paths = sorted(path for suffix in SUFFIXES for path in folder.glob(f"[!.]*{suffix}"))
    return [Built(path.stem, path, path.stat().st_size, recorded(path)) for path in paths]


def check_built(names: Iterable[str] | None = None) -> list[Verdict]:
    """Hash the models of those names, or all, that were built into the cache, and compare them with their logs."""
    chosen = None if names is None else set(names)
    verdicts = []
    for built in all_built():
        if chosen is not None and built.name not in chosen:
            continue
        where, digest = str(built.path), sha256_of(built.path)
        if built.sha256 is None:
            verdicts.append(Verdict("unlisted", built.name, where, f"no log records its sha256; the file has {digest}"))
        elif digest != built.sha256:
            verdicts.append(Verdict("altered", built.name, where, f"sha256 {digest} instead of {built.sha256} as built"))
        else:
            verdicts.append(Verdict("ok", built.name, where, "built here"))
    return verdicts


@dataclass(frozen=True)
class Unfinished:
    """A build that was stopped: its checkpoint with the snapshots beside it."""

    name: str
    path: Path
    size: int

    def remove(self) -> int:
        """Remove both, and return the bytes freed; the next build begins anew."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(_snapshots(self.path), ignore_errors=True)
        return self.size


def all_unfinished() -> list[Unfinished]:
    """Return the builds that were stopped, by name."""
    paths = sorted((cache_root() / "checkpoints").glob("[!.]*.pt"))
    return [Unfinished(p.stem, p, p.stat().st_size + _size(_snapshots(p))) for p in paths]


def _snapshots(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".snapshots")


def parts() -> dict[str, int]:
    """Return the bytes in each folder and file of the cache, such as blobs, built, checkpoints, images and harness."""
    return {path.name: _size(path) for path in sorted(cache_root().glob("*"))}


def empty(part: str) -> int:
    """Remove one folder or file of the cache by its name, as `parts` gives it, and return the bytes freed.

    Raises:
        UserError: there is none of that name.
    """
    found = parts()
    if part not in found:
        raise UserError(f"the cache {cache_root()} has no part {part!r}; it has {', '.join(found) or 'none'}")
    path = cache_root() / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return found[part]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
