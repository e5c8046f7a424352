"""The page on attacks says what is there."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import types
from pathlib import Path

import torch
import yaml
from click.testing import CliRunner

from harness.attacks import PARTS, Rng, get
from harness.attacks.registry import PRESETS
from harness.cli import main
from tests.harness.attacks import gains_page
from tests.harness.attacks.nets import EPS, images, net

PAGE = (Path(__file__).parents[3] / "docs" / "attacks.md").read_text(encoding="utf-8")


def test_examples_are_attacks(tmp_path: Path) -> None:
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    assert [example["name"] for example in examples] == ["fia-ti-si", "margin", "vmi-torchattacks", "mi-transferattack"]
    assert get(examples[0]) != get("fia")
    file = tmp_path / "attack.py"
    file.write_text(
        "class MyAttack:\n  def __init__(self, scale): ...\n  def __call__(self, model, x, y, *, eps, steps): ...\n"
    )
    assert get({**examples[1], "use": f"{file}:MyAttack"}).cost(3) is None


def test_every_slot_and_released_preset_is_named() -> None:
    table = PAGE.split("| slot | how many |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([a-z-]+)`", table, re.M) == list(PARTS)
    named = set(re.findall(r"`([a-z-]+-released)`", PAGE))
    assert named == {name for name in PRESETS if name.endswith("-released")}


def test_parts_are_listed_with_their_settings() -> None:
    made = CliRunner().invoke(main, ["attacks", "--parts", "--json"])
    listed = {(row["slot"], row["part"]): row for row in json.loads(made.output)}
    assert set(listed) == {(slot, name) for slot, kinds in PARTS.items() for name in kinds}
    assert listed["filters", "ti"]["settings"] == "size=15, sigmas=3.0"
    assert all(row["doc"].endswith((".", ")")) for row in listed.values())


def test_contributing_shows_a_part_that_works(tmp_path: Path) -> None:
    """The class shown is registered, composed and run as it stands."""
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"## Add an attack\n.*?```python\n(.*?)```", text, re.S)
    assert code is not None and len(textwrap.dedent(code[1]).strip().splitlines()) <= 10
    space: dict[str, object] = {"__name__": "shown"}
    sys.modules["shown"] = types.ModuleType("shown")  # dataclasses look their module up
    try:
        exec(f"from __future__ import annotations\n{textwrap.dedent(code[1])}", space)
        x, y = images()
        shown = get({"base": "mim", "filters": ["flip"]})(net(), x, y, eps=EPS, steps=1, rng=Rng(0, range(3)))
        assert not torch.equal(shown, get("mim")(net(), x, y, eps=EPS, steps=1, rng=Rng(0, range(3))))
    finally:
        PARTS["filters"].pop("flip", None)
        del sys.modules["shown"]


def test_the_page_on_gains_is_computed_from_rows() -> None:
    page = gains_page.PAGE.read_text(encoding="utf-8")
    assert gains_page.written(page) == page, "python -m tests.harness.attacks.gains_page"
