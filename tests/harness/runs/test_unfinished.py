"""What a run was asked for is not forgotten before it is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.runs.unfinished import Request, unfinished
from harness.suites.selection import Selection
from harness.suites.suite import Suite, load
from tests.harness.tiny import SUITE, make, run
from zoo.errors import UserError

Tiny = tuple[Suite, Path]
PART = Selection(attacks=("pgd",), substitutes=("tiny-resnet",))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return make(tmp_path)


def stopped(tiny: Tiny, tmp_path: Path, at: str, selection: Selection | None = None) -> Request | None:
    """Interrupt a run while it crafts rows of a substitute, and return what it leaves to be done."""

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith(f"crafting {at} "):
            raise KeyboardInterrupt

    suite, registry = tiny
    with pytest.raises(KeyboardInterrupt):
        run(suite, tmp_path / "out", selection, overlays=[registry], source=source(tmp_path), workers=1, notify=stop)
    return unfinished(tmp_path / "out" / "tiny" / "v1")


def source(tmp_path: Path) -> str:
    return str(tmp_path / "tiny.yaml")


def test_a_run_that_is_refused_leaves_the_request_of_a_stopped_one(tiny: Tiny, tmp_path: Path) -> None:
    before = stopped(tiny, tmp_path, "tiny-resnet-2bit")
    (tmp_path / "moved.yaml").write_text(SUITE.replace("levels: 32", "levels: 16"), encoding="utf-8")
    with pytest.raises(UserError, match="raise the suite's version"):
        run(load(str(tmp_path / "moved.yaml")), tmp_path / "out", overlays=[tiny[1]], workers=1)
    assert before is not None and unfinished(tmp_path / "out" / "tiny" / "v1") == before


def test_a_part_that_succeeds_leaves_the_request_of_the_whole_until_that_is_done(tiny: Tiny, tmp_path: Path) -> None:
    suite, registry = tiny
    whole = stopped(tiny, tmp_path, "tiny-resnet-2bit")
    part = run(suite, tmp_path / "out", PART, overlays=[registry], source=source(tmp_path), workers=1)
    assert whole is not None and unfinished(part.folder) == whole
    done = run(suite, tmp_path / "out", overlays=[registry], source=source(tmp_path), workers=1)
    assert unfinished(done.folder) is None and not (done.folder / "run.json").exists()


def test_a_whole_run_covers_a_part_and_a_part_without_all_targets_does_not(tiny: Tiny, tmp_path: Path) -> None:
    suite, registry = tiny
    before = stopped(tiny, tmp_path, "tiny-resnet", PART)
    fewer = Selection(targets=("tiny-vgg",))
    report = run(suite, tmp_path / "out", fewer, overlays=[registry], source=source(tmp_path), workers=1)
    assert before is not None and unfinished(report.folder) == before
    run(suite, tmp_path / "out", overlays=[registry], source=source(tmp_path), workers=1)
    assert unfinished(report.folder) is None


def test_two_stopped_runs_are_resumed_one_after_the_other(tiny: Tiny, tmp_path: Path) -> None:
    stopped(tiny, tmp_path, "tiny-resnet-2bit")
    latest = stopped(tiny, tmp_path, "tiny-resnet-2bit", Selection(attacks=("cim",)))
    assert latest is not None and latest.attacks == ("cim",)
    folder = tmp_path / "out" / "tiny" / "v1"
    for rows, words in ((3, "another run stopped"), (6, "rows made")):
        result = CliRunner().invoke(main, ["resume", "--suite", "tiny", "--out", str(tmp_path / "out")])
        assert result.exit_code == 0 and words in result.output, result.output
        assert len(list((folder / "rows").iterdir())) >= rows
    assert unfinished(folder) is None
