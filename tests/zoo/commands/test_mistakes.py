"""Mistakes in devices, folders, files and suites end in one paragraph and status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zoo.cli import main


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2 and result.stdout == "", (result.output, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("Error: ") or "\nError: " in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", ""])
@pytest.mark.parametrize("command", ["eval", "build"])
def test_a_device_that_cannot_be_used(command: str, device: str) -> None:
    refused(run(command, "digits-vgg", "--device", device), f"device {device!r} cannot be used")


def test_a_file_to_push_that_is_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "absent.safetensors")
    refused(run("push", "digits-vgg", "--repo", "o/n", "--license", "mit", "--file", missing), "there is no file", missing)


@pytest.mark.parametrize("out", ["/proc/x", "{tmp}/file/x"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("")
    refused(run("build", "digits-vgg", "--out", out.format(tmp=tmp_path)), "cannot write to the folder", "--out")


@pytest.mark.parametrize("below", ["", "/inner"])
@pytest.mark.parametrize("arguments", [("build", "digits-vgg"), ("list",), ("cache", "list"), ("pull", "digits-vgg")])
def test_a_cache_at_a_file(cache: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], below: str) -> None:
    cache.write_text("")
    monkeypatch.setenv("ZOO_CACHE", f"{cache}{below}")
    refused(run(*arguments), str(cache), "is a file", "ZOO_CACHE")


def test_a_cache_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", "/proc/x")
    refused(run("build", "digits-vgg"), "cannot write to the folder", "ZOO_CACHE")


@pytest.mark.parametrize(
    "content",
    [
        "substitutes: 5",
        "substitutes: digits-vgg",
        "substitutes: [5]",
        "substitutes: [{models: digits-vgg}]",
        "substitutes: [{models: [[digits-vgg]]}]",
        "targets: digits-vgg",
        "targets: [5]",
        "targets: {32: digits-vgg}",
        "targets: {wide: digits-vgg}",
    ],
)
def test_a_suite_whose_models_are_no_lists_of_names(tmp_path: Path, content: str) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(content)
    refused(run("pull", "--suite", str(suite)), str(suite))
