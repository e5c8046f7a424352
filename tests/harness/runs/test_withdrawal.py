"""What a user does with a board of his own: take rows off, ask for its state, and be told what comes next."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import harness
from harness.cli import main
from harness.records import chain
from harness.records.rows import Absent, AbsentRows, Submitted, read_absent, read_row, write_absent, write_row
from harness.runs.withdrawal import withdraw
from tests.harness.tiny import make
from zoo.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite `tiny`, run over ten images."""
    folder = tmp_path_factory.mktemp("own")
    suite, registry = make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(folder / "cache"))
        harness.run(suite, attacks=["mim"], overlays=[registry], out=folder / "out", workers=1, limit=10)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    monkeypatch.setenv("ZOO_CACHE", str(made / "cache"))
    shutil.copytree(made, tmp_path / "world")
    return tmp_path / "world"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def board_of(world: Path) -> Path:
    return world / "out" / "tiny" / "v1-limit10"


def test_a_row_is_withdrawn_and_the_board_stays_sound(world: Path) -> None:
    folder = board_of(world)
    row = folder / "rows" / "tiny-resnet--mim--s0.json"
    done = run("withdraw", str(row))
    assert done.exit_code == 0 and "withdrawn" in done.stdout, done.output
    assert not row.exists() and chain.read(folder)[-1].row == row.name and chain.read(folder)[-1].sha256 is None
    assert run("board", "--suite", "tiny", "--limit", "10", "--out", str(world / "out"), "--check").exit_code == 0
    assert {line.substitute for line in harness.load_board(folder).lines} == {"tiny-resnet-2bit"}
    again = run("withdraw", str(row))
    assert again.exit_code == 2 and "has no row" in again.stderr
    run("withdraw", str(folder / "rows" / "tiny-resnet-2bit--mim--s0.json"))
    assert not list(folder.glob("board.*")), "no row is left"
    shown = run("board", "--suite", "tiny", "--limit", "10", "--out", str(world / "out"))
    assert "has no rows yet; make some with: harness run --suite tiny" in shown.stderr, shown.output


def test_a_row_that_could_not_be_made_is_taken_off_the_list(world: Path) -> None:
    folder = board_of(world)
    lost = Absent(substitute="tiny-resnet", attack="own", seed=0, reason="ValueError: no")
    kept = Absent(substitute="tiny-resnet", attack="other", seed=0, reason="ValueError: no")
    write_absent(folder, AbsentRows(rows=(kept, lost)))
    before = chain.read(folder)
    assert "no longer listed" in withdraw(folder / "rows" / "tiny-resnet--own--s0.json")
    assert read_absent(folder).rows == (kept,) and chain.read(folder) == before


def test_rows_of_submissions_have_their_own_command(world: Path) -> None:
    path = board_of(world) / "rows" / "tiny-resnet--mim--s0.json"
    row = read_row(path)
    source = {"source_sha256": None, "bundle_sha256": "0" * 64, "isolation": None}
    submission = Submitted(authors=("A. Nobody",), paper=None, license="mit", **source)  # type: ignore[arg-type]
    theirs = row.model_copy(update={"submission": submission, "attack": "theirs"})
    path = write_row(path.parent.parent, theirs)
    with pytest.raises(UserError, match="harness submit withdraw theirs --suite tiny"):
        withdraw(path)
    told = run("reproduce", str(path))
    assert told.exit_code == 2 and f"harness verify {path}" in told.stderr, told.output


@pytest.mark.parametrize("name", ["nowhere.json", "out/tiny/v1-limit10/clean.json", "out/tiny/v9/rows/a--b--s0.json"])
def test_what_is_no_row_is_refused(world: Path, name: str) -> None:
    with pytest.raises(UserError, match="name a row by its file"):
        withdraw(world / name)


def test_status_knows_trials(world: Path) -> None:
    asked = ("status", "--suite", str(world / "tiny.yaml"), "--out", str(world / "out"))
    whole = run(*asked)
    assert "not in the registry (name yours with --registry): tiny-resnet" in whole.stderr
    assert whole.stdout.count("to do") == 4 and "v1-limit10 has 2 rows: --limit 10" in whole.stderr
    trial = run(*asked, "--limit", "10")
    assert trial.stdout.count("done") == 2 and trial.stdout.count("to do") == 2 and "beside it" not in trial.stderr


def test_a_board_whose_run_stopped_before_its_first_row_says_what_to_do(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(made / "cache"))
    suite = harness.load_suite(made / "tiny.yaml")

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.run(suite, overlays=[made / "tiny-models.yaml"], out=tmp_path, workers=1, limit=5, notify=stop)
    told = run("board", "--suite", "tiny", "--limit", "5", "--out", str(tmp_path))
    assert "stopped before the first one; go on with: harness resume --suite tiny" in told.stderr, told.output


def test_the_figures_of_the_paper_are_shown_before_any_row_is_there(tmp_path: Path) -> None:
    shown = run("compare", "--suite", "imagenet-qnn", "--paper", "--out", str(tmp_path))
    assert shown.exit_code == 0 and "Measured 0 of" in shown.stdout and "no row" in shown.stdout
    assert len(shown.stdout.splitlines()) > len(harness.load_suite("imagenet-qnn").reported) > 10
    none = run("compare", "--suite", "digits-qnn", "--paper", "--out", str(tmp_path))
    assert none.exit_code == 2 and "repeats no figures" in none.stderr
