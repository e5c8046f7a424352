"""Which code counts when images and answers are looked up: what is imported, and not how it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.runs import sources

DONE = """
import sys
from pathlib import Path
from harness.runs.craft import craft
from harness.runs.score import score
from harness.runs.workspace import Context
from harness.suites.selection import Job
from harness.suites.suite import load
suite = load(sys.argv[1])
context = Context(suite, (sys.argv[2],), limit=4)
craft(context, Job("tiny-resnet", "mim", 0))
score(context, None, "tiny-vgg-2bit")
print(*(name for name in sys.modules if name.startswith(("zoo.", "harness."))))
"""


def test_all_that_runs_while_images_are_made_and_scored_is_among_the_sources(tmp_path: Path) -> None:
    from tests.harness import tiny

    _, registry = tiny.make(tmp_path)
    suite = tmp_path / "tiny.yaml"
    suite.write_text(tiny.SUITE)
    command = [sys.executable, "-c", DONE, str(suite), str(registry)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=sources.ROOT, check=True)
    ran = set(done.stdout.split())
    known = sources.closure(*sources.CRAFTING)
    packages = {name for name in ran if (sources.ROOT / name.replace(".", "/")).is_dir()}
    apart = ("harness.api", "harness.records", "harness.runs", "harness.suites", "zoo.commands")  # they hand work on
    lost = {name for name in ran - known.keys() - packages if not name.startswith((*sources.CARRIERS, *apart))}
    assert len(ran) > 60 and not lost


def test_answers_do_not_depend_on_attacks_and_images_depend_on_both() -> None:
    scoring, crafting = sources.closure(*sources.SCORING), sources.closure(*sources.CRAFTING)
    assert {"harness.runs.answers", "zoo.quant.modules", "zoo.archs.nin", "zoo.kernels"} <= scoring.keys()
    assert not [name for name in scoring if name.startswith(("harness.attacks", "harness.runs.craft"))]
    assert {"harness.attacks.presets", "harness.attacks.inputs.operators", "harness.substitutes.lgv"} <= crafting.keys()


def test_words_do_not_count_and_code_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "zoo").mkdir()
    begin, deep = tmp_path / "zoo" / "begin.py", tmp_path / "zoo" / "deep.py"
    begin.write_text('"""Words."""\ndef f():\n    """More."""\n    from zoo.deep import g\n    return g(1)\n')
    deep.write_text('def g(x):\n    return x + 1\n"""After."""\n')

    def digest() -> str:
        sources.code_digest.cache_clear()
        return sources.code_digest("zoo.begin")

    first = digest()
    begin.write_text("# Others.\ndef f():\n\n    from zoo.deep import g\n    return g(\n        1)\n")
    deep.write_text("def g(x):\n    return x + 1\n")
    assert digest() == first
    deep.write_text("def g(x):\n    return x + 2\n")
    assert digest() != first, "a module that is imported in a function counts"
    sources.code_digest.cache_clear()
