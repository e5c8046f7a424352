"""The page on attacks says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from harness.attacks import get
from harness.attacks.compose import PARTS
from harness.attacks.registry import PRESETS

PAGE = (Path(__file__).parents[3] / "docs" / "attacks.md").read_text(encoding="utf-8")


def test_examples_are_attacks(tmp_path: Path) -> None:
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    assert [example["name"] for example in examples] == ["fia-ti-si", "margin", "vmi-torchattacks"]
    assert get(examples[0]) != get("fia")
    file = tmp_path / "attack.py"
    file.write_text(
        "class MyAttack:\n  def __init__(self, scale): ...\n  def __call__(self, model, x, y, *, eps, steps): ...\n"
    )
    assert get({**examples[1], "use": f"{file}:MyAttack"}).cost(3) is None


def test_every_part_and_released_preset_is_named() -> None:
    table = PAGE.split("| slot | parts |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+)`", table)) == set(PARTS) | {part for slot in PARTS.values() for part in slot}
    named = set(re.findall(r"`([a-z-]+-released)`", PAGE))
    assert named == {name for name in PRESETS if name.endswith("-released")}
