"""The loopback Hub satisfies the unmodified huggingface_hub client."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import TOKEN, Hub, serve

FILE = bytes(range(256)) * 64


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve(tmp_path / "hub") as hub:
        yield hub


def get(hub: Hub, tmp_path: Path, repo: str, file: str, **settings) -> bytes:
    return Path(hf_hub_download(repo, file, endpoint=hub.url, cache_dir=tmp_path / "cache", **settings)).read_bytes()


@pytest.mark.parametrize("cdn", [False, True])
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_download_by_branch_and_by_commit(hub, tmp_path, kind, cdn):
    hub.cdn = cdn
    old = hub.add("o/n", {"m.safetensors": FILE, "config.json": b"{}"}, kind=f"{kind}s")
    new = hub.add("o/n", {"m.safetensors": FILE[::-1]}, kind=f"{kind}s")
    assert old != new
    assert get(hub, tmp_path, "o/n", "m.safetensors", repo_type=kind) == FILE[::-1]
    assert get(hub, tmp_path, "o/n", "m.safetensors", repo_type=kind, revision=old) == FILE
    assert get(hub, tmp_path, "o/n", "config.json", repo_type=kind) == b"{}"


def test_snapshot(hub, tmp_path):
    commit = hub.add("o/n", {"a/m.safetensors": FILE, "config.json": b"{}"})
    folder = Path(snapshot_download("o/n", endpoint=hub.url, cache_dir=tmp_path / "c", revision=commit))
    assert (folder / "a/m.safetensors").read_bytes() == FILE
    assert Path(snapshot_download("o/n", endpoint=hub.url, cache_dir=tmp_path / "d")).name == commit


def test_missing_and_gated(hub, tmp_path):
    hub.add("o/n", {"m.bin": FILE})
    hub.add("o/gated", {"m.bin": FILE}, gated=True)
    with pytest.raises(RepositoryNotFoundError):
        get(hub, tmp_path, "o/none", "m.bin", token=False)
    with pytest.raises(RevisionNotFoundError):
        get(hub, tmp_path, "o/n", "m.bin", revision="1" * 40)
    with pytest.raises(RemoteEntryNotFoundError):
        get(hub, tmp_path, "o/n", "none.bin")
    with pytest.raises(GatedRepoError):
        get(hub, tmp_path, "o/gated", "m.bin", token=False)
    assert get(hub, tmp_path, "o/gated", "m.bin", token=TOKEN) == FILE


def test_info_states_revision_hash_and_size(hub):
    commit = hub.add("o/n", {"m.safetensors": FILE, "README.md": b"hello"})
    info = HfApi(endpoint=hub.url, token=False).model_info("o/n", files_metadata=True)
    assert info.sha == commit
    files = {s.rfilename: s for s in info.siblings}
    assert files["m.safetensors"].lfs.sha256 == hashlib.sha256(FILE).hexdigest()
    assert files["m.safetensors"].size == len(FILE)
    assert files["README.md"].lfs is None


def test_upload_and_restart(hub, tmp_path):
    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.create_repo("o/up")
    api.create_repo("o/up", exist_ok=True)
    (tmp_path / "up").mkdir()
    (tmp_path / "up/model.safetensors").write_bytes(FILE)
    (tmp_path / "up/README.md").write_text("---\nlicense: mit\n---\n")
    commit = api.upload_folder(repo_id="o/up", folder_path=tmp_path / "up").oid
    assert get(hub, tmp_path, "o/up", "model.safetensors", revision=commit) == FILE
    shutil.copytree(tmp_path / "hub", tmp_path / "copy")
    with serve(tmp_path / "copy") as again:
        assert again.store.get("models", "o/up").main == commit


def test_range_request_resumes(hub):
    from huggingface_hub.utils import get_session

    hub.add("o/n", {"m.bin": FILE})
    answer = get_session().get(f"{hub.url}/o/n/resolve/main/m.bin", headers={"Range": "bytes=1000-"})
    assert answer.status_code == 206 and answer.content == FILE[1000:]


def test_faults_are_visible_to_the_client(hub, tmp_path):
    hub.add("o/n", {"m.bin": FILE})
    hub.fail("alter", after=7, times=1)
    assert get(hub, tmp_path, "o/n", "m.bin") != FILE  # the client itself does not check
    hub.fail("short", after=7, times=1)
    with pytest.raises(OSError, match="Consistency"):
        get(hub, tmp_path, "o/n", "m.bin", force_download=True)
