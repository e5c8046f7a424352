"""The review of a pull request: an honest addition passes, everything else is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import chain
from harness.records.rows import read_rows, write_row
from harness.submit.add import add
from harness.submit.review import review
from tests.harness.submit import stage
from tests.harness.submit.conftest import Scene

pytestmark = pytest.mark.usefixtures("one_sandbox")


@pytest.fixture
def head(scene: Scene, tmp_path: Path) -> Path:
    boards = scene.copy_board(tmp_path)
    add(scene.pictures, boards, suite=scene.suite)
    return boards


def test_an_honest_addition_passes(scene: Scene, head: Path) -> None:
    found = review(scene.board, head)
    assert found.problems == []
    assert [row.attack for _, row in found.added] == ["pictures"]
    assert any("pictures" in line for line in found.diff)


def test_a_regenerated_row_is_made_again(scene: Scene, tmp_path: Path) -> None:
    base = scene.copy_board(tmp_path / "base")
    head = scene.copy_board(tmp_path / "head")
    add(stage.bundle(tmp_path, scene.suite, "second", stage.SIGN.replace("eps / 2", "eps / 5")), head, suite=scene.suite)
    found = review(base, head, fraction=0.5, walls=stage.WALLS)
    assert found.problems == []
    assert found.verdicts[0].startswith("same outcomes: digits-vgg--second--s0.json")


def test_nothing_new_is_named(scene: Scene) -> None:
    assert review(scene.board, scene.board).problems == ["it adds no row"]


def _row(board: Path, name: str) -> Path:
    return board / "rows" / f"digits-vgg--{name}.json"


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _rechained(board: Path) -> None:
    rows = list(read_rows(board))
    (board / chain.FILE).unlink()
    for row in reversed(rows):
        write_row(board, row)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "changes another's row": (lambda b: _edit(_row(b, "honest--s0"), seed=0), "is changed; a submission changes no row"),
    "removes another's row": (lambda b: _row(b, "honest--s0").unlink(), "is removed"),
    "changes the suite": (lambda b: (b / "suite.yaml").write_text("x"), "is changed; a submission changes no row and no setting"),
    "changes the clean predictions": (lambda b: _edit(b / "clean.json", ids=[]), "is changed"),
    "rewrites history": (_rechained, "rewrites history"),
    "does not record its row": (
        lambda b: (b / chain.FILE).write_text((b / chain.FILE).read_text().splitlines(keepends=True)[0]),
        "is not recorded",
    ),
    "changes the board only": (lambda b: (b / "board.md").write_text("first place"), "differs from its rows"),
    "brings a program": (lambda b: (b / "rows" / "setup.py").write_text("x"), "is new; a submission adds rows"),
    "brings a workflow": (lambda b: (b.parent.parent / "x.yml").write_text("x"), "has no place among the leaderboards"),
    "brings a link": (lambda b: (b / "rows" / "x.json").symlink_to("/etc/passwd"), "is a link"),
    "brings a page": (lambda b: (b / "index.html").write_text("<script>"), "is new; a submission adds rows"),
    "adds to another's source": (lambda b: (b / "submissions" / "honest" / "more.py").write_text("x"), "added to another's"),
    "brings a source without rows": (
        lambda b: ((b / "submissions" / "x").mkdir(), (b / "submissions" / "x" / "attack.py").write_text("x")),
        "come together, or not at all",
    ),
    "brings a board of its own": (lambda b: ((b.parent / "v2").mkdir(), (b.parent / "v2" / "suite.yaml").write_text("x")), "new"),
    "raises its evidence": (lambda b: _edit(_row(b, "pictures--s0--rescored"), evidence="regenerated"), "holds the row of"),
    "breaks the budget": (lambda b: _edit(_row(b, "pictures--s0--rescored"), max_level=99), "differ by 99 levels"),
    "is no submission": (lambda b: _edit(_row(b, "pictures--s0--rescored"), submission=None), "names no submission"),
    "changes its source": (
        lambda b: (b / "submissions" / "pictures" / "submission.yaml").write_text(
            (b / "submissions" / "pictures" / "submission.yaml").read_text().replace("A. Uthor", "Another")
        ),
        "is not the source that it names",
    ),
    "has an outcome too many": (
        lambda b: _edit(_row(b, "pictures--s0--rescored"), outcomes={"digits-nin": {"clean": [0] * 30, "adv": [0] * 30}}),
        "damaged predictions|not of the 20 images",
    ),
}


@pytest.mark.parametrize(("tamper", "reason"), [pytest.param(*case, id=name) for name, case in HOSTILE.items()])
def test_a_hostile_pull_request_is_named(scene: Scene, head: Path, tamper: Callable[[Path], object], reason: str) -> None:
    tamper(head / "tiny" / "v1")
    found = review(scene.board, head)
    assert found.problems
    assert any(re.search(reason, problem) for problem in found.problems), found.problems


def test_the_report_cannot_be_steered(scene: Scene, head: Path) -> None:
    (head / "evil ~~~~~~\n# [x](http:x)").write_text("x")
    report = review(scene.board, head).markdown
    body = report.split("~~~~~~text\n")[1].split("\n~~~~~~")[0]
    assert "~~~" not in body
    assert "\n#" not in body
