"""The chain of a leaderboard: a changed row, an altered entry and a rewritten history are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import chain
from harness.records.rows import write_row
from tests.harness.synthetic import World


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    world = World(images=20)
    for attack in ("pgd", "mim", "di"):
        write_row(tmp_path, world.row("a-2bit", attack))
    return tmp_path


def lines(folder: Path) -> list[str]:
    return (folder / chain.FILE).read_text().splitlines(keepends=True)


def put(folder: Path, kept: list[str]) -> None:
    (folder / chain.FILE).write_text("".join(kept))


def test_what_harness_wrote_fits(folder: Path) -> None:
    assert chain.check(folder) == []
    assert [link.row for link in chain.read(folder)] == [f"a-2bit--{a}--s0.json" for a in ("pgd", "mim", "di")]


def test_the_same_row_again_adds_nothing(folder: Path) -> None:
    row = World(images=20).row("a-2bit", "pgd")
    write_row(folder, row)
    write_row(folder, row)
    assert len(lines(folder)) == 3


def test_a_row_made_anew_is_recorded_beside_the_old(folder: Path) -> None:
    write_row(folder, World(images=20, seed=1).row("a-2bit", "pgd"))
    assert len(lines(folder)) == 4
    assert chain.check(folder) == []


def test_a_run_killed_before_the_row_was_written_heals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = World(images=20, seed=1).row("a-2bit", "ti")
    with monkeypatch.context() as patch:
        patch.setattr("harness.records.rows.atomic_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_row(folder, row)
    assert chain.check(folder)
    write_row(folder, row)
    assert chain.check(folder) == []


def test_a_withdrawn_row_is_recorded(folder: Path) -> None:
    (folder / "rows" / "a-2bit--mim--s0.json").unlink()
    chain.append(folder, "a-2bit--mim--s0.json", None)
    assert chain.check(folder) == []


def _flip(folder: Path) -> None:
    path = folder / "rows" / "a-2bit--mim--s0.json"
    path.write_text(path.read_text().replace('"max_level": 32', '"max_level": 31'))


def _add(folder: Path) -> None:
    (folder / "rows" / "a-2bit--new--s0.json").write_bytes((folder / "rows" / "a-2bit--mim--s0.json").read_bytes())


def _forge(folder: Path) -> None:
    entry = json.loads(lines(folder)[1])
    put(folder, [lines(folder)[0], json.dumps({**entry, "sha256": "f" * 64}) + "\n", lines(folder)[2]])


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (_flip, "was changed after it was recorded"),
        (_add, "new--s0.json is not recorded"),
        (lambda f: (f / "rows" / "a-2bit--mim--s0.json").unlink(), "is recorded in chain.jsonl but gone"),
        (lambda f: put(f, [*reversed(lines(f))]), "does not follow"),
        (lambda f: put(f, [lines(f)[0], lines(f)[2]]), "does not follow"),
        (lambda f: put(f, lines(f)[:-1]), "di--s0.json is not recorded"),
        (_forge, "does not follow"),
        (lambda f: put(f, [*lines(f), "x\n"]), "line 4 of chain.jsonl is no entry"),
        (lambda f: (f / chain.FILE).unlink(), "is missing"),
    ],
)
def test_tampering_is_found(folder: Path, tamper: Callable[[Path], None], reason: str) -> None:
    tamper(folder)
    problems = chain.check(folder)
    assert problems
    assert reason in problems[0]


def test_a_rewritten_history_does_not_extend_the_old_one(folder: Path, tmp_path: Path) -> None:
    old = "".join(lines(folder))
    (folder / chain.FILE).unlink()
    for attack in ("di", "mim", "pgd"):
        write_row(folder, World(images=20).row("a-2bit", attack))
    new = "".join(lines(folder))
    assert chain.check(folder) == []
    assert not chain.extends(old, new)
    assert chain.extends(old, old + new)
