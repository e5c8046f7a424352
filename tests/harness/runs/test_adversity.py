"""Full disks, read-only folders, damaged files, kills and interrupts: one clear message, nothing corrupted."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.records.rows import read_rows
from harness.storage import files
from harness.storage.lock import cache_in_use, exclusive
from harness.suites.selection import Selection
from harness.suites.suite import Suite
from tests.harness.tiny import make, run
from zoo.errors import UserError

ROOT = Path(__file__).parents[3]
Tiny = tuple[Suite, Path]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return make(tmp_path / "models")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")


def canonical(folder: Path) -> dict[str, bytes]:
    return {row.filename: row.canonical() for row in read_rows(folder)}


def cached(kind: str) -> list[Path]:
    return sorted((Path(os.environ["ZOO_CACHE"]) / "harness" / kind).rglob("*.safetensors"))


def start(tmp_path: Path, registry: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command line on the tiny suite."""
    code = "from harness.cli import main; main(prog_name='harness')"
    command = [sys.executable, "-c", code, "--registry", str(registry), "run", "--suite", "models/tiny.yaml", "--out", "out"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_disk_of_boards_stops_with_one_message_and_the_run_goes_on_when_there_is_space(
    tiny: Tiny, tmp_path: Path, small_disk: Path
) -> None:
    suite, registry = tiny
    filler = small_disk / "filler"
    filler.write_bytes(bytes(170_000))
    with pytest.raises(UserError, match="the disk is full: free some space, or choose another folder with --out"):
        run(suite, small_disk / "out", overlays=[registry], workers=1)
    assert not list(small_disk.rglob("*.tmp")) and list(small_disk.rglob("run.json"))
    for path in small_disk.rglob("*.json"):
        assert path.read_bytes().endswith(b"}\n"), "what is there is whole"
    filler.unlink()
    again = run(suite, small_disk / "out", overlays=[registry], workers=1)
    whole = run(suite, tmp_path / "out", overlays=[registry], workers=1)
    assert canonical(again.folder) == canonical(whole.folder)


def test_a_full_disk_of_the_cache_names_the_cache(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, registry = tiny
    real = files.os.fsync
    count = iter(range(1000))

    def fsync(descriptor: int) -> None:
        if "/cache/" in Path(f"/proc/self/fd/{descriptor}").readlink().as_posix() and next(count) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(UserError, match=r"the disk is full: free some space, or choose another folder with \$ZOO_CACHE"):
            run(suite, tmp_path / "out", overlays=[registry], workers=1)
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(run(suite, tmp_path / "out", overlays=[registry], workers=1).written) == 4


def test_a_read_only_folder_is_refused_before_anything_is_computed(tiny: Tiny, small_disk: Path) -> None:
    suite, registry = tiny
    mount("-o", "remount,ro", str(small_disk))
    with pytest.raises(UserError, match="read-only: choose another folder with --out"):
        run(suite, small_disk / "out", overlays=[registry], workers=1)
    assert not cached("crafted") and not cached("scores")


@pytest.mark.parametrize("damage", ["cut short", "one bit", "empty", "another file"])
@pytest.mark.parametrize("kind", ["crafted", "scores"])
def test_a_damaged_cache_file_is_made_again(tiny: Tiny, tmp_path: Path, kind: str, damage: str) -> None:
    suite, registry = tiny
    part = Selection(attacks=("mim",), substitutes=("tiny-resnet",))
    whole = run(suite, tmp_path / "whole", part, overlays=[registry], workers=1)
    for path in cached(kind):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        broken = {"cut short": bytes(content[:-7]), "one bit": bytes(content), "empty": b"", "another file": b"PK\3\4" * 99}
        path.write_bytes(broken[damage])
    again = run(suite, tmp_path / "again", part, overlays=[registry], workers=1)
    assert canonical(again.folder) == canonical(whole.folder)


def test_leftovers_of_killed_runs_are_swept_and_nothing_else(tiny: Tiny, tmp_path: Path) -> None:
    suite, registry = tiny
    cache, folder = tmp_path / "cache" / "harness", tmp_path / "out" / "tiny" / "v1"
    leftovers = [cache / "crafted" / "ab" / ".x.safetensors.0123456789ab.tmp", folder / "rows" / ".r.json.0123456789ab.tmp"]
    others = [cache / "notes.tmp", folder / ".mine.tmp"]
    with cache_in_use(cache):
        for path in leftovers + others:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        run(suite, tmp_path / "out", overlays=[registry], workers=1, limit=5)
        assert all(path.exists() for path in leftovers), "another run is at work with this cache: its files are its own"
    run(suite, tmp_path / "out", overlays=[registry], workers=1)
    assert not any(path.exists() for path in leftovers) and all(path.exists() for path in others)


def test_two_commands_at_once_one_runs_and_the_other_says_so(tiny: Tiny, tmp_path: Path) -> None:
    _, registry = tiny
    folder = tmp_path / "out" / "tiny" / "v1"
    with exclusive(folder):
        second = start(tmp_path, registry, "--workers", "1")
        out, err = second.communicate(timeout=60)
    assert second.returncode == 2 and out == "" and err.count("\n") == 1 and "another run is at work" in err
    assert not (folder / "run.json").exists(), "the one that was refused leaves nothing to resume"


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_run_leaves_no_process_and_no_noise_behind(tiny: Tiny, tmp_path: Path, number: int) -> None:
    """Ctrl-C on a terminal reaches every process of the group; a kill only one."""
    _, registry = tiny
    process = start(tmp_path, registry, "--workers", "2")
    wait_for(lambda: len(children(process.pid)) >= 3)  # two workers, and Python's tracker of their resources
    workers = children(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        wait_for(lambda: cached("scores"))
        process.kill()
    _, err = process.communicate(timeout=60)
    wait_for(lambda: not any(alive(pid) for pid in workers), 20)
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from there" in err
