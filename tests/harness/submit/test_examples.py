"""Third-party attacks go from their folder to a `regenerated` row by the documented commands alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.board import check as check_board
from harness.records.rows import read_rows
from tests.harness.submit import stage

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "submissions"


def harness(place: Path, *arguments: str) -> str:
    """Run the command line, as a user would, and return what it prints."""
    code = "from harness.cli import main; main()"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}", *arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("one_sandbox")
@pytest.mark.parametrize("name", ["neighbour-momentum", "torchattacks-vmi"])
def test_from_folder_to_regenerated_row(tmp_path: Path, name: str) -> None:
    if name.startswith("torchattacks"):
        pytest.importorskip("torchattacks")
    stage.suite(tmp_path)
    shutil.copytree(EXAMPLES / name, tmp_path / name)
    yaml = tmp_path / name / "submission.yaml"
    yaml.write_text(yaml.read_text().replace("digits-vgg-2bit-qaa", "digits-resnet14-2bit-qaa"))
    assert "FAIL" not in harness(tmp_path, "submit", "check", name, "--suite", "tiny.yaml")
    harness(tmp_path, "submit", "run", name, "--suite", "tiny.yaml")
    assert "2 rows with evidence 'regenerated'" in harness(
        tmp_path, "submit", "add", f"{name}--tiny.zip", "--suite", "tiny.yaml", "--out", "boards"
    )
    assert "holds" in harness(tmp_path, "verify", f"{name}--tiny.zip", "--suite", "tiny.yaml")
    folder = tmp_path / "boards" / "tiny" / "v1"
    for row in read_rows(folder):
        assert "holds" in harness(tmp_path, "verify", str(folder / "rows" / row.filename))
        assert row.attack == name
    assert check_board(folder) == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_sandbox")
def test_the_scaffold_passes_as_it_is(tmp_path: Path) -> None:
    harness(tmp_path, "submit", "new", "my-attack")
    assert "FAIL" not in harness(tmp_path, "submit", "check", "my-attack")
    assert (tmp_path / "my-attack" / "attack.py").read_text().split('"""')[2:] == (
        EXAMPLES / "neighbour-momentum" / "attack.py"
    ).read_text().split('"""')[2:]
