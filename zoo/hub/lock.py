"""Fills revisions, hashes and sizes from the Hub for entries that lack them, and tells what moved since they were pinned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.hub.cache import sha256_of
from zoo.hub.pins import Scalar
from zoo.hub.servers import asking_hub
from zoo.hub.transfer import DownloadOptions, Want, usable
from zoo.hub.weights import fetch_with, is_local
from zoo.registry.entry import ModelEntry, Weights

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo


@dataclass(frozen=True)
class Locked:
    """What the Hub says of one entry.

    `filled` holds values for `zoo.hub.pins.write_pins`. `moved` says what main has now where that is not what is pinned.
    """

    name: str
    filled: dict[str, Scalar] = field(default_factory=dict)
    moved: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Stated:
    """One file at one commit, as the Hub states it."""

    revision: str
    sha256: str | None
    size: int | None


def lock(entries: Iterable[ModelEntry], options: DownloadOptions | None = None, *, again: bool = False) -> list[Locked]:
    """Ask the Hub for what the entries' weights lack and for what main holds now. Pins that exist are never changed.

    Files that no Hub states a hash for (by url, local, or outside git-LFS) are fetched to be hashed. With `again`, local files
    that are other ones than the registry says are pinned as they are now.
    """
    options = options or DownloadOptions()
    return [_lock(e.name, e.weights, options, again) for e in entries if e.weights and not e.weights.bundled]


def _lock(name: str, weights: Weights, options: DownloadOptions, again: bool) -> Locked:
    try:
        if weights.file and is_local(weights):
            return _local(name, weights, Path(weights.file), again)
        if options.is_offline and not weights.file:
            raise UserError(f"{name}: cannot ask the Hub in offline mode (unset HF_HUB_OFFLINE)")
        if weights.hub is None:
            return Locked(name, _hashed(name, weights, options))
        now = _stated(name, weights, None)
        pinned = _stated(name, weights, weights.hub.revision) if weights.hub.revision else now
    except UserError as error:
        return Locked(name, error=str(error))
    return _compare(name, weights, pinned, now, options)


def _local(name: str, weights: Weights, path: Path, again: bool) -> Locked:
    if not path.is_file():
        raise UserError(f"{name}: there is no file {path}")
    now: dict[str, Scalar] = {"sha256": sha256_of(path), "size": path.stat().st_size}
    changed = {k: v for k, v in now.items() if getattr(weights, k) not in (None, v)}
    if changed and not again:
        moved = f"{path} has sha256 {now['sha256']}, another than the registry says; not touched: --again pins it as it is now"
        return Locked(name, moved=moved)
    usable(Want(name, None, None, safetensors=weights.keymap is None and not weights.is_graph), path)
    return Locked(name, {k: v for k, v in now.items() if getattr(weights, k) != v})


def _compare(name: str, weights: Weights, pinned: _Stated, now: _Stated, options: DownloadOptions) -> Locked:
    sha256 = weights.sha256
    filled: dict[str, Scalar] = {}
    if sha256 and pinned.sha256 and pinned.sha256 != sha256:
        return Locked(name, moved=f"{pinned.revision[:12]} holds sha256 {pinned.sha256}, the registry says {sha256}; not touched")
    if weights.hub and weights.hub.revision is None:
        filled["hub.revision"] = pinned.revision
    if sha256 is None or weights.size is None:
        try:
            filled |= _content(name, weights, pinned, options)
        except UserError as error:
            return Locked(name, error=str(error))
    moved = None
    if now.revision != pinned.revision:
        same = now.sha256 is not None and now.sha256 == (pinned.sha256 or sha256)
        moved = f"main is now {now.revision[:12]}: {'the same file' if same else 'another file'}"
    return Locked(name, filled, moved)


def _content(name: str, weights: Weights, pinned: _Stated, options: DownloadOptions) -> dict[str, Scalar]:
    """Return hash and size as stated; a file outside git-LFS has no stated hash and is fetched to be hashed."""
    if pinned.sha256 is None or pinned.size is None:
        at = weights.model_copy(update={"hub": weights.hub and weights.hub.model_copy(update={"revision": pinned.revision})})
        return _hashed(name, at, options)
    both: dict[str, Scalar] = {"sha256": pinned.sha256, "size": pinned.size}
    return {k: v for k, v in both.items() if getattr(weights, k) is None}


def _hashed(name: str, weights: Weights, options: DownloadOptions) -> dict[str, Scalar]:
    if weights.sha256 and weights.size:
        return {}
    path = fetch_with(options, name, weights, unpinned=True)
    both: dict[str, Scalar] = {"sha256": sha256_of(path), "size": path.stat().st_size}
    return {k: v for k, v in both.items() if getattr(weights, k) is None}


def _stated(name: str, weights: Weights, revision: str | None) -> _Stated:
    assert weights.hub is not None
    repo, file = weights.hub.repo, weights.hub.file
    info = model_info(name, repo, revision)
    found = next((s for s in info.siblings or [] if s.rfilename == file), None)
    if found is None or info.sha is None:
        files = ", ".join(s.rfilename for s in (info.siblings or [])[:6])
        raise UserError(f"{name}: {repo} has no file {file} at {revision or 'main'}; it has {files}")
    return _Stated(info.sha, found.lfs.sha256 if found.lfs else None, found.lfs.size if found.lfs else found.size)


def model_info(name: str, repo: str, revision: str | None) -> ModelInfo:
    """Return what the Hub says of a repository at a revision, with the hashes of its files."""
    with asking_hub(name, repo) as api:
        return api.model_info(repo, revision=revision, files_metadata=True, timeout=15.0)
