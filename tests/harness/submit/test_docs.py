"""docs/submitting.md does what it says, command by command."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "submitting.md").read_text(encoding="utf-8")


def test_every_test_that_the_threat_model_names_is_there() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) >= 25
    assert [name for name in sorted(named) if f"def {name}(" not in code] == []
    assert [quoted for quoted in re.findall(r'"([a-z][^"]+)"', page) if f'"{quoted}": Hostile(' not in code] == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_sandbox")
def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    ran = 0
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.S):
        if block.startswith("def attack"):
            continue
        if language == "python":
            commands = [[sys.executable, "-c", f"{start}\n{block}"]]
        else:
            code = f"{start}; from harness.cli import main; main()"
            commands = [[sys.executable, "-c", code, *shlex.split(line)[1:]] for line in block.splitlines()]
        for command in commands:
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=3000)
            assert done.returncode == 0, f"{command[3:]}: {done.stdout}{done.stderr}"
            ran += 1
    assert ran >= 12
