"""Versions: raised with a reason, and old ones stay to be read and run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.board import load as load_board
from harness.cli import main
from harness.records.pinned import board_folder
from harness.records.rows import read_rows
from harness.runs.reproduce import reproduce
from harness.suites.selection import Selection
from harness.suites.suite import load
from harness.suites.versions import bump
from tests.harness.tiny import make, run
from zoo.errors import UserError


def rows(folder: Path) -> dict[str, bytes]:
    return {row.filename: row.canonical() for row in read_rows(folder)}


def test_an_old_version_stays_readable_and_can_be_run_again_after_a_bump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    first = run(suite, out, overlays=[registry], workers=1)
    before = rows(first.folder)
    path.write_text(path.read_text(encoding="utf-8").replace("levels: 32}", "levels: 16}  # half"), encoding="utf-8")
    with pytest.raises(UserError, match=r"budget changed; raise the suite's version \(harness suite bump tiny"):
        run(load(str(path)), out, overlays=[registry], workers=1)
    assert bump(str(path), "half the budget:\n every ASR falls", out).version == 2
    text = path.read_text(encoding="utf-8")
    assert "version: 2\n" in text and "# half" in text, "only the number changes"
    second = run(load(str(path)), out, overlays=[registry], workers=1)
    assert second.folder == out / "tiny" / "v2" and len(second.written) == 4
    newest, oldest = (second.folder / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()[2:]
    assert newest.startswith("- v2 (") and newest.endswith(": half the budget: every ASR falls") and oldest.startswith("- v1")
    assert load_board(first.folder).suite.budget.levels == 32 and rows(first.folder) == before
    assert reproduce(first.written[0], overlays=(str(registry),)).identical
    for row in first.written:
        row.unlink()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "fresh"))
    again = run(load(str(first.folder / "suite.yaml")), out, overlays=[registry], workers=1)
    assert again.folder == first.folder and rows(again.folder) == before


def test_a_bump_needs_a_reason_and_a_version_of_the_files_own(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "tiny.yaml"
    with pytest.raises(UserError, match="--because"):
        bump(str(path), "  ", tmp_path / "out")
    child = tmp_path / "child.yaml"
    child.write_text("include: tiny.yaml\nname: child\n", encoding="utf-8")
    with pytest.raises(UserError, match="no version of its own"):
        bump(str(child), "why", tmp_path / "out")
    assert bump(str(path), "why", tmp_path / "out").version == 2
    assert bump(str(path), "why not", tmp_path / "out").version == 3
    text = (tmp_path / "out" / "tiny" / "v3" / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [line[:4] for line in text.splitlines() if line.startswith("-")] == ["- v3", "- v2", "- v1"]


def test_a_suite_is_shown_and_bumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    path = tmp_path / "tiny.yaml"
    before = load(str(path))
    main(["suite", "show", str(path)], prog_name="harness")
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load(str(shown)) == before, "what is shown is a suite"
    main(["suite", "bump", str(path), "--because", "nothing moves", "--yes", "--out", str(tmp_path / "out")], prog_name="harness")
    assert "version 2" in capsys.readouterr().out and load(str(path)).version == 2


def test_the_newest_version_with_rows_is_shown_until_the_next_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    mim = Selection(("mim",))
    run(suite, out, mim, overlays=[registry], workers=1)
    bump(str(path), "nothing moves", out)
    status = ["--registry", str(registry), "status", "--suite", str(path), "--out", str(out)]
    assert board_folder(out, "tiny").name == "v1"
    main([*status], prog_name="harness")
    assert capsys.readouterr().out.count("done") == 2, "version 1 has rows, and version 2 none yet"
    main([*status, "--version", "2"], prog_name="harness")
    shown = capsys.readouterr()
    assert "done" not in shown.out and "v1 has 2 rows: --version 1" in shown.err
    second = run(load(str(path)), out, mim, overlays=[registry], workers=1)
    for row in second.written:
        row.unlink()
    assert board_folder(out, "tiny").name == "v1", "a version that was begun and has no rows is not shown"
    run(load(str(path)), out, mim, overlays=[registry], workers=1)
    assert board_folder(out, "tiny").name == "v2"
    with pytest.raises(SystemExit):
        main([*status, "--version", "9"], prog_name="harness")


def test_a_suite_of_an_installed_package_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "harness" / "suites"
    make(installed)
    monkeypatch.setattr("harness.suites.suite.FOLDER", installed)
    before = (installed / "tiny.yaml").read_bytes()
    with pytest.raises(UserError, match=r"belongs to the installed package.*harness suite show tiny > mine\.yaml"):
        bump("tiny", "why", tmp_path / "out")
    assert (installed / "tiny.yaml").read_bytes() == before
    (tmp_path / "site-packages" / "pyproject.toml").write_text("")
    assert bump("tiny", "why", tmp_path / "out").version == 2, "a checkout is the user's own"


def test_a_bump_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    path = tmp_path / "tiny.yaml"
    asked = ["suite", "bump", str(path), "--because", "why", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as refused:
        main(asked, prog_name="harness")
    assert refused.value.code == 2 and "say --yes" in capsys.readouterr().err and load(str(path)).version == 1
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, version in ((False, 1), (True, 2)):
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _prompt, answer=answer: "y" if answer else "n")
        if answer:
            main(asked, prog_name="harness")
        else:
            with pytest.raises(SystemExit):
                main(asked, prog_name="harness")
        assert load(str(path)).version == version
