"""One attack, suite or folder has one name, however it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness.cli import main
from harness.records.rows import read_rows
from harness.runs.plan import status
from harness.runs.reproduce import reproduce
from harness.suites.selection import Selection
from harness.suites.suite import Suite, load
from tests.harness.tiny import SUITE, make, run
from zoo.errors import UserError

OWN = """
def noise(model, x, y, *, eps, steps, rng):
    return x + eps
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Suite, Path]:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


def test_an_alias_makes_the_row_of_its_attack(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE.replace("[pgd, mim]", "[pgd, mi-fgsm]"), encoding="utf-8")
    with pytest.warns(DeprecationWarning, match="'mim' now"):
        selection, suite = Selection(attacks=("mi-fgsm", "mim")).bring(load(str(path)))
    assert selection.attacks == ("mim",) and suite.attack_names == ["pgd", "mim"]
    composed = path.read_text(encoding="utf-8").replace("mi-fgsm]", "{name: mi-fgsm, base: pgd}]")
    path.write_text(composed, encoding="utf-8")
    selection, suite = Selection(attacks=("mi-fgsm",)).bring(load(str(path)))
    assert selection.attacks == ("mi-fgsm",), "a suite may call its own composition so"
    path.write_text(SUITE.replace("[pgd, mim]", "[mi-fgsm]"), encoding="utf-8")
    with pytest.warns(DeprecationWarning):
        assert next(row["name"] for row in status(load(str(path)), tmp_path)) == "tiny-resnet--mim--s0"


def test_the_row_of_a_file_is_reproduced_from_another_folder(
    tiny: tuple[Suite, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, registry = tiny
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    only = Selection(attacks=("own.py:noise",), substitutes=("tiny-resnet",), targets=("tiny-vgg",))
    (path,) = run(suite, tmp_path / "out", only, overlays=[registry], workers=1, limit=5).written
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert reproduce(path, overlays=(str(registry),)).identical


def test_a_board_is_found_by_name_file_and_folder(
    tiny: tuple[Suite, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, registry = tiny
    only = Selection(attacks=("mim",), targets=("tiny-vgg",))
    report = run(suite, tmp_path / "out", only, overlays=[registry], workers=1)
    board = harness.load_board("tiny", out="out").to_json()
    for given in ("tiny.yaml", "out/tiny", "out/tiny/v1", tmp_path / "out" / "tiny", "out/tiny/v1/suite.yaml"):
        assert harness.load_board(given, out="out" if given == "tiny.yaml" else "leaderboards").to_json() == board, given
    with pytest.raises(UserError, match="no version 2"):
        harness.load_board("out/tiny/v1", version=2)
    run(suite, tmp_path / "trial", only, overlays=[registry], workers=1, limit=3)
    main(["board", "--suite", "tiny", "--limit", "3", "--out", "trial"], standalone_mode=False)
    with pytest.raises(SystemExit):
        main(["board", "--suite", "tiny", "--out", "trial"])
    assert "those of --limit 3" in capsys.readouterr().err
    names = [f"{row.substitute}:{row.attack}" for row in read_rows(report.folder)]
    for command in (["board"], ["compare", *names]):
        main([*command, "--suite", "tiny.yaml", "--out", "out"], standalone_mode=False)
    assert "A against B" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["compare", "--suite", "tiny", "--out", "out", "--paper"])
    assert "harness suite show tiny" in capsys.readouterr().err


def test_a_plan_over_more_images_than_there_are_is_that_of_the_run(
    tiny: tuple[Suite, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, registry = tiny
    only = Selection(attacks=("mim",), substitutes=("tiny-resnet",), targets=("tiny-vgg",))
    run(suite, tmp_path / "out", only, overlays=[registry], workers=1, limit=100)
    asked = ["--suite", "tiny.yaml", "--out", "out", "--limit", "100", "--attack", "mim", "--substitute", "tiny-resnet"]
    main(["--registry", str(registry), "plan", *asked, "--no-measure"], standalone_mode=False)
    assert "1 jobs on 25 images, 1 rows there" in capsys.readouterr().out
