"""`zoo build` makes what is not there, keeps what is finished, and finds starts where it put them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.zoo.recipes.conftest import TWO_BITS, make_entry, stripes
from zoo.data import Dataset
from zoo.recipes import BuildReport
from zoo.recipes.making import find, make
from zoo.recipes.train import Fit
from zoo.registry.entry import ModelEntry

ENTRIES = {
    "fp": make_entry("fp"),
    "q": make_entry("q", TWO_BITS, start="fp", options={"latent": True}),
    "qaa": make_entry("qaa", TWO_BITS, start="q", states=("w", "wa")),
}


class Killed(BaseException):
    """Stands for a signal that ends the process."""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs of training, one item each."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.recipes.making.load_data", data)
    monkeypatch.setattr("zoo.recipes.making.training", lambda name: data(name, "train"))
    runs: list[str] = []
    original = Fit.run

    def run(fit: Fit) -> None:
        runs.append("run")
        original(fit)

    monkeypatch.setattr(Fit, "run", run)
    return runs


def data(name: str, split: str) -> Dataset:
    return stripes(split, 80 if split == "train" else 40)


def build(
    *names: str, out: Path | None = None, again: bool = False, entries: dict[str, ModelEntry] = ENTRIES
) -> list[BuildReport]:
    return make([entries[n] for n in names], entries, out=out, again=again)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["cache", "out"])
def test_finished_entries_are_kept_and_the_rest_is_built(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = tmp_path / "nets" if where == "out" else None
    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr("zoo.recipes.make.quant.save", stop_at("q"))
        build("fp", "q", "qaa", out=out)
    trained.clear()
    reports = build("fp", "q", "qaa", out=out)
    assert [r.kept for r in reports] == [True, False, False] and len(trained) == 2
    trained.clear()
    again = build("fp", "q", "qaa", out=out)
    assert all(r.kept for r in again) and not trained
    assert [(r.sha256, r.size, r.top1, r.log) for r in again] == [(r.sha256, r.size, r.top1, plain(r.log)) for r in reports]


def plain(log: object) -> object:
    return json.loads(json.dumps(log))


def stop_at(name: str) -> object:
    from zoo.quant import save

    def stop(model: object, path: Path, **options: object) -> None:
        if path.stem == name:
            raise Killed
        save(model, path, **options)  # type: ignore[arg-type]

    return stop


def test_starts_are_found_in_the_folder_of_the_files(trained: list[str], tmp_path: Path) -> None:
    out = tmp_path / "nets"
    build("fp", "q", out=out)
    trained.clear()
    [report] = build("qaa", out=out)
    assert report.name == "qaa" and len(trained) == 1 and not list((tmp_path / "cache" / "built").glob("*"))


def test_another_recipe_start_or_file_is_built_anew(trained: list[str], tmp_path: Path) -> None:
    [first, _] = build("fp", "q")
    changed = {**ENTRIES, "fp": make_entry("fp", lr=0.04)}
    assert [r.kept for r in build("fp", "q", entries=changed)] == [False, False], "what starts from another net is another"
    assert build("fp")[0].sha256 == first.sha256
    assert [r.kept for r in build("fp", again=True)] == [False]
    first.path.write_bytes(first.path.read_bytes()[:-1] + b"!")
    assert find(ENTRIES["fp"]) is None
    [mended] = build("fp")
    assert not mended.kept and mended.sha256 == first.sha256 and find(ENTRIES["fp"]) == first.path


def test_two_builds_of_one_model_train_once(trained: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """The second waits for the first, which would otherwise write the same checkpoint and file, and keeps what it made."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        [first], [second] = pool.map(build, ["fp", "fp"])
    assert trained == ["run"] and sorted([first.kept, second.kept]) == [False, True]
    assert first.sha256 == second.sha256
    assert "another process builds it" in caplog.text


def test_other_processes_of_one_launch_need_no_lock(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.hub.store import building

    with building("fp"):
        monkeypatch.setenv("RANK", "1")
        assert [r.kept for r in build("fp")] == [False]
