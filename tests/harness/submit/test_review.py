"""The review of a pull request: one bundle passes and its rows are made here; everything else is named."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import chain
from harness.records.rows import read_rows, write_row
from harness.submit.review import review
from tests.harness.submit import stage
from tests.harness.submit.conftest import Scene

pytestmark = pytest.mark.usefixtures("one_sandbox")


@pytest.fixture
def base(scene: Scene, tmp_path: Path) -> Path:
    """A checkout of the base branch: boards, a bundle that is there already, code and workflows."""
    root = tmp_path / "base"
    shutil.copytree(scene.board, root / "leaderboards")
    for name, text in ((".github/workflows/ci.yml", "on: push"), ("harness/run.py", "x = 1"), ("README.md", "read me")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "submissions").mkdir()
    shutil.copy(scene.honest, root / "submissions" / "honest--tiny.zip")
    return root


@pytest.fixture
def head(scene: Scene, base: Path, tmp_path: Path) -> Path:
    """A checkout of a pull request that adds a bundle of images."""
    root = Path(shutil.copytree(base, tmp_path / "head"))
    shutil.copy(scene.pictures, root / "submissions" / "pictures--tiny.zip")
    return root


@pytest.fixture
def tiny(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tiny suite be one that ships with the package."""
    from harness.suites import suite

    monkeypatch.setattr(suite, "names", lambda: ["tiny"])
    monkeypatch.setattr(suite, "load", lambda name: scene.suite)


def test_one_bundle_and_nothing_else_passes(base: Path, head: Path) -> None:
    found = review(base, head)
    assert found.problems == found.warnings == found.flags == []
    assert found.bundle == "pictures--tiny v1 by A. Uthor: images, 1 substitute(s) x seed(s)"
    assert "too large to be made here" in found.made[0]


@pytest.mark.usefixtures("tiny")
def test_rows_are_made_here_on_a_copy_of_the_boards(scene: Scene, base: Path, head: Path) -> None:
    before = stage.trace(base)
    found = review(base, head, make=["tiny"])
    assert found.problems == []
    assert found.made == ["digits-vgg--pictures--s0--rescored.json (evidence: rescored)"]
    assert any("pictures" in line for line in found.diff)
    assert stage.trace(base) == before


@pytest.mark.usefixtures("tiny")
def test_code_is_crafted_anew_and_its_controls_are_told(scene: Scene, base: Path, head: Path, tmp_path: Path) -> None:
    (head / "submissions" / "pictures--tiny.zip").unlink()
    code = stage.SIGN.replace("eps / 2", "eps / 5") + f"\nTABLE = {'x' * 400!r}\n"
    stage.bundle(tmp_path, scene.suite, "second", code).rename(head / "submissions" / "second--tiny.zip")
    found = review(base, head, make=["tiny"], walls=stage.WALLS)
    assert found.problems == []
    assert "evidence: regenerated" in found.made[0]
    assert any("with decoy substitutes" in line for line in found.made)
    assert found.flags == ["attack.py, line 10: a text of 400 characters", "attack.py, line 10: 410 characters"]


def _row(root: Path, name: str = "digits-vgg--honest--s0.json") -> Path:
    return root / "leaderboards" / "tiny" / "v1" / "rows" / name


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _invented(**changes: object) -> Callable[[Path], object]:
    """Return a tampering that adds a row, chained and shown as if `harness` had written it."""

    def tamper(root: Path) -> None:
        board = root / "leaderboards" / "tiny" / "v1"
        row = next(read_rows(board))
        submission = changes.pop("submission", None)
        if submission and row.submission:
            changes["submission"] = row.submission.model_copy(update=dict(submission))  # type: ignore[call-overload]
        write_row(board, row.model_copy(update={"attack": "invented", **changes}))

    return tamper


def _rechained(root: Path) -> None:
    board = root / "leaderboards" / "tiny" / "v1"
    (row,) = read_rows(board)
    (board / chain.FILE).unlink()
    for level in (1, row.max_level):
        write_row(board, row.model_copy(update={"max_level": level}))


def _written(name: str, text: str = "x") -> Callable[[Path], object]:
    def tamper(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return tamper


def _moved(old: str, new: str) -> Callable[[Path], object]:
    def tamper(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return tamper


ROWS = "rows and boards are made by trusted code"
ELSEWHERE = "changes nothing outside submissions/"
BOARD = "leaderboards/tiny/v1"
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a row of its own": (_invented(), ROWS),
    "a row that says it was regenerated": (_invented(evidence="regenerated", max_level=1), ROWS),
    "a row on a target": (_invented(substitute="digits-nin"), ROWS),
    "a row on a substitute that is none": (_invented(substitute="digits-nothing"), ROWS),
    "a row by another's code": (_invented(composition="Submission('honest', images)"), ROWS),
    "a row under a chosen seed": (_invented(seed=7), ROWS),
    "a row with its hard targets as failures": (_invented(failures={"digits-adv-vgg": "out of memory"}), ROWS),
    "a row of invented cost": (_invented(cost={"forwards": 0, "backwards": 0, "seconds": 0.0, "device": "toaster"}), ROWS),
    "a row of invented images": (_invented(images_sha256="0" * 64), ROWS),
    "a row of invented weights": (_invented(substitute_sha256="0" * 64), ROWS),
    "a row of invented walls": (_invented(submission={"isolation": "a bunker"}), ROWS),
    "a row of invented controls": (_invented(submission={"controls": None}), ROWS),
    "a row of an invented licence": (_invented(submission={"license": "Mine-1.0"}), ROWS),
    "a row with a script as its paper": (_invented(submission={"paper": "javascript:alert(1)"}), ROWS),
    "a row of invented authors": (_invented(submission={"authors": ("Somebody Else",)}), ROWS),
    "a change of another's row": (lambda r: _edit(_row(r), seed=0, max_level=1), ROWS),
    "another's row gone": (lambda r: _row(r).unlink(), ROWS),
    "another's row renamed": (_moved(f"{BOARD}/rows/digits-vgg--honest--s0.json", f"{BOARD}/rows/x.json"), ROWS),
    "a row hidden in the bundles": (
        _moved(f"{BOARD}/rows/digits-vgg--honest--s0.json", "submissions/pictures--tiny/manifest.json"),
        ROWS,
    ),
    "another history": (_rechained, ROWS),
    "a ghost in the chain": (lambda r: chain.append(r / BOARD, "digits-vgg--ghost--s0.json", "0" * 64), ROWS),
    "a withdrawal in the chain": (lambda r: chain.append(r / BOARD, "digits-vgg--honest--s0.json", None), ROWS),
    "a board of its own": (_written("leaderboards/tiny/v2/suite.yaml"), ROWS),
    "another board": (_written(f"{BOARD}/board.md"), ROWS),
    "another table": (_written(f"{BOARD}/board.csv", "=cmd"), ROWS),
    "another suite": (_written(f"{BOARD}/suite.yaml"), ROWS),
    "other clean predictions": (_written(f"{BOARD}/clean.json"), ROWS),
    "a page": (_written(f"{BOARD}/index.html", "<script>"), ROWS),
    "a lock": (_written(f"{BOARD}/.lock"), ROWS),
    "a lock in a folder of its own": (_written("leaderboards/x/.lock"), ROWS),
    "a draw in the log": (_written(f"{BOARD}/draws.jsonl"), ROWS),
    "a source for another's row": (_written(f"{BOARD}/submissions/honest/more.py"), ROWS),
    "a file among the boards": (_written("leaderboards/x.yml"), ROWS),
    "a workflow": (_written(".github/workflows/x.yml"), ELSEWHERE),
    "another workflow": (_written(".github/workflows/ci.yml"), ELSEWHERE),
    "a workflow by renaming": (_moved("README.md", ".github/workflows/x.yml"), ELSEWHERE),
    "a workflow gone": (lambda r: (r / ".github/workflows/ci.yml").unlink(), ELSEWHERE),
    "code of ours": (_written("harness/run.py"), ELSEWHERE),
    "a dependency": (_written("constraints.txt"), ELSEWHERE),
    "a hook of git": (_written(".githooks/pre-commit"), ELSEWHERE),
    "another's bundle changed": (_written("submissions/honest--tiny.zip"), "is changed; a submission adds a bundle"),
    "another's bundle gone": (lambda r: (r / "submissions/honest--tiny.zip").unlink(), "is removed; a submission adds"),
    "a second bundle": (lambda r: shutil.copy(r / "submissions/pictures--tiny.zip", r / "submissions/x--tiny.zip"), "2 bundles"),
    "a bundle by another name": (
        _moved("submissions/pictures--tiny.zip", "submissions/honest--other.zip"),
        "should be pictures--tiny",
    ),
    "no bundle": (lambda r: (r / "submissions/pictures--tiny.zip").unlink(), "no bundle below"),
    "no archive": (_written("submissions/pictures--tiny.zip"), "neither a folder nor a zip file"),
    "a link to a file": (lambda r: (r / "submissions/x").symlink_to("/etc/passwd"), "is a link"),
    "a link to a folder": (lambda r: (r / "submissions/x").symlink_to("/etc"), "is a link"),
    "a hard link": (lambda r: os.link(r / "README.md", r / "submissions/x"), "hard links"),
    "a pipe": (lambda r: os.mkfifo(r / "submissions/x"), "neither a file nor a folder"),
    "a name that breaks the line": (lambda r: (r / "submissions/a\n# evil").write_text("x"), "2 bundles"),
}


@pytest.mark.parametrize(("tamper", "reason"), [pytest.param(*case, id=name) for name, case in HOSTILE.items()])
def test_a_hostile_pull_request_is_named(base: Path, head: Path, tamper: Callable[[Path], object], reason: str) -> None:
    tamper(head)
    found = review(base, head, make=["tiny"])
    assert found.problems
    assert any(re.search(reason, problem) for problem in found.problems), found.problems
    assert found.made == []


def test_nothing_is_posted_when_the_workflows_change(base: Path, head: Path) -> None:
    assert review(base, head).posted
    (head / "README.md").rename(head / ".github" / "workflows" / "x.yml")
    found = review(base, head)
    assert not found.posted
    assert "changes .github/" in found.warnings[0]


def test_the_warning_stands_first(base: Path, head: Path) -> None:
    (head / "harness" / "run.py").rename(head / "harness" / "other.py")
    report = review(base, head).markdown
    assert report.startswith("**Read this first:**")
    assert "it also changes 2 file(s) elsewhere" in report  # a rename is one that goes and one that comes
    assert report.index("Read this first") < report.index("## Review")


def test_the_report_cannot_be_steered(base: Path, head: Path) -> None:
    (head / "evil ~~~~~~\n# [x](http:x) \u202e\u05d0").write_text("x")
    report = review(base, head).markdown
    bodies = re.findall(r"~~~~~~text\n(.*?)\n~~~~~~\n", report, re.S)
    assert len(bodies) == report.count("~~~~~~text")
    for body in bodies:
        assert "~~~" not in body
        assert not re.search(r"^#", body, re.M)
        assert "\u202e" not in body and "\u05d0" not in body
