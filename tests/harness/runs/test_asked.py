"""Attacks in every form that a caller may give them: names, changed settings, mappings, values, and code of one's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

import harness
from harness.attacks import PARTS, get
from harness.attacks.compose import decompose
from harness.attacks.registry import PRESETS
from harness.cli import main
from harness.records.rows import read_rows
from harness.runs.asked import changed, written
from harness.suites.selection import Selection
from tests.harness.tiny import make
from zoo.errors import UserError

OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Shift:
    part: float = 1.0

    def __call__(self, model, x, y, *, eps, steps, rng):
        return x + self.part * eps

class Plain:
    def __call__(self, model, x, y, *, eps, steps, rng):
        return x - eps

class Loaded(Plain):
    def __init__(self, size=1):
        self.size = size

def still(model, x, y, *, eps, steps, rng):
    return x
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path = tmp_path_factory.mktemp("own") / "ownattacks.py"
    path.write_text(OWN)
    spec = importlib.util.spec_from_file_location("ownattacks", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["ownattacks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_its_mapping(name: str) -> None:
    assert get({"name": "x", **decompose(get(name))}) == get(name)  # type: ignore[arg-type]


def test_values_are_written_as_a_suite_writes_them(own: ModuleType) -> None:
    file = own.__file__
    assert written(["mim", get("di"), own.Shift, own.Plain(), own.still, get(own.still)]) == (
        *("mim", "di"),
        *(f"{file}:Shift", f"{file}:Plain", f"{file}:still", f"{file}:still"),
    )
    [slow] = written([get("mim").but(decay=0.5)])  # type: ignore[attr-defined]
    assert isinstance(slow, dict) and get(slow) == get({"base": "mim", "decay": 0.5}) and slow["name"].startswith("attack-")
    [shift] = written([own.Shift(0.5)])
    assert shift == {"name": "shift", "use": f"{file}:Shift", "options": {"part": 0.5}}
    named = written({"a": "mim", "b": own.still, "c": {"base": "mim", "steps": 3}, "d": own.Shift(0.5)})
    assert named == (
        {"name": "a", "base": "mim"},
        {"name": "b", "use": f"{file}:still"},
        {"base": "mim", "steps": 3, "name": "c"},
        {**shift, "name": "d"},  # type: ignore[dict-item]
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("mim", r"attacks=\['mim'\]"),
        ([5], "not by 5"),
        ([lambda model, x, y, *, eps, steps, rng: x], "%%writefile attack.py"),
    ],
)
def test_what_cannot_be_written_is_refused(asked: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        written(asked)


def test_hidden_settings_are_refused(own: ModuleType) -> None:
    with pytest.raises(UserError, match="make it a dataclass"):
        written([own.Loaded(3)])


def test_changes_name_what_they_change() -> None:
    assert changed(("mim", "pgd"), ()) == ("mim", "pgd")
    assert changed(("mim",), ("decay=0.5",)) == ({"name": "mim-decay-0.5", "base": "mim", "decay": 0.5},)
    [fia] = changed(("fia",), ("loss.fia.keep=0.9", "transforms=[si]"))
    name = "fia-loss.fia.keep-0.9-transforms-si"
    assert fia == {"name": name, "base": "fia", "loss": {"fia": {"keep": 0.9}}, "transforms": ["si"]}
    assert get(fia) == get({"base": "fia", "loss": {"fia": {"keep": 0.9}}, "transforms": ["si"]})
    [foreign] = changed(("torchattacks:VMIFGSM",), ("N=2",))
    assert foreign == {"name": "torchattacks-vmifgsm-n-2", "use": "torchattacks:VMIFGSM", "options": {"N": 2}}


@pytest.mark.parametrize(
    ("names", "change", "words"),
    [
        ((), "decay=0.5", "name at least one"),
        (("mim",), "decay", "write KEY=VALUE"),
        (("mim",), "=3", "write KEY=VALUE"),
        (("mim",), "decay=[1", "no YAML"),
    ],
)
def test_a_change_that_says_nothing_is_refused(names: tuple[str, ...], change: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        changed(names, (change,))


def test_a_composed_attack_joins_the_suite_under_its_own_name(tmp_path: Path) -> None:
    suite, _ = make(tmp_path)
    item = {"name": "slow", "base": "mim", "decay": 0.5}
    selection, joined = Selection((item, "pgd")).bring(suite)
    assert selection.attacks == ("slow", "pgd") and joined.attacks == (*suite.attacks, item)
    assert Selection((item,)).bring(joined)[1] == joined
    for other, words in (({**item, "decay": 0.4}, "another attack of the name 'slow'"), ({"base": "mim"}, "needs a name")):
        with pytest.raises(UserError, match=words):
            Selection((other,)).bring(joined)


def test_a_run_takes_them_and_its_rows_say_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: ModuleType
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    how: dict[str, Any] = {"overlays": [registry], "out": tmp_path / "out", "workers": 1, "limit": 5}
    part: dict[str, Any] = {"substitutes": ["tiny-resnet"], "targets": ["tiny-vgg"]}
    board = harness.run(suite, attacks=["mim", get("mim").but(decay=0.5), own.Shift(0.5)], **part, **how)  # type: ignore[attr-defined]
    assert {line.attack for line in board.lines} >= {"mim", "shift"} and len(board.lines) == 3
    rows = {row.attack: row for row in read_rows(tmp_path / "out/tiny/v1-limit5")}
    assert "('part', 0.5)" in rows["shift"].composition
    [slow] = [row for name, row in rows.items() if name.startswith("attack-")]
    asked = ["run", "--suite", str(tmp_path / "tiny.yaml"), "--attack", "mim,pgd", "--set", "decay=0.5", "--limit", "5"]
    asked += ["--substitute", "tiny-resnet", "--target", "tiny-vgg", "--out", str(tmp_path / "out"), "--workers", "1"]
    made = CliRunner().invoke(main, ["--registry", str(registry), *asked])
    assert made.exit_code == 0, made.output
    names = {*rows, "mim-decay-0.5", "pgd-decay-0.5"}
    rows = {row.attack: row for row in read_rows(tmp_path / "out/tiny/v1-limit5")}
    assert set(rows) == names
    assert rows["mim-decay-0.5"].images_sha256 == slow.images_sha256 != rows["mim"].images_sha256
    refused = CliRunner().invoke(main, ["--registry", str(registry), *asked, "--set", "decoy=1"])
    assert refused.exit_code == 2 and "did you mean 'decay'" in refused.stderr, refused.output


def test_every_slot_can_be_written() -> None:
    assert set(PARTS) < set(decompose(get("mim")))  # type: ignore[arg-type]
