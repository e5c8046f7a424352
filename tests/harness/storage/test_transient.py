"""A file that cannot be read now is not a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.storage import shards


def test_a_read_error_that_passes_leaves_a_good_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shard.safetensors"
    shards.write(path, torch.arange(3))

    def away(*_: object) -> None:
        raise OSError("Stale file handle")

    with monkeypatch.context() as broken:
        broken.setattr(shards, "safe_open", away)
        assert shards.read(path) is None
    assert shards.read(path) is not None
    path.write_bytes(path.read_bytes()[:-4] + b"\x09\x00\x00\x00")
    assert shards.read(path) is None and not path.exists()
