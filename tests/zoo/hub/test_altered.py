"""A file of the cache that was altered goes, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

from zoo.hub.cache import Cache


def test_finding_an_altered_file_leaves_another_process_its_download(tmp_path: Path) -> None:
    cache, sha256 = Cache(tmp_path), hashlib.sha256(b"right").hexdigest()
    cache.part(sha256).write_bytes(b"right")
    blob = cache.admit(cache.part(sha256), sha256, "somewhere")
    blob.write_bytes(b"wrong")
    cache.part(sha256).write_bytes(b"ri")  # another process has begun to fetch it again
    assert cache.find(sha256) is None
    assert not blob.exists() and not blob.with_name(f"{sha256}.json").exists()
    assert cache.part(sha256).read_bytes() == b"ri"
