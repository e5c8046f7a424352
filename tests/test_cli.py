"""Both commands as a user types them: results on stdout, one paragraph and status 2 for what the user can mend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(tmp_path: Path, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `zoo` or `harness` in a folder of its own, with a cache of its own."""
    code = f"from {program}.cli import main; main(prog_name={program!r})"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ZOO_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check for one clear paragraph on stderr, nothing on stdout, no traceback, status 2."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_listings_are_json_objects_with_names(tmp_path: Path) -> None:
    for program, *arguments in (["zoo", "list", "digits-*"], ["harness", "list"], ["harness", "attacks"]):
        done = run(tmp_path, program, *arguments, "--json")
        rows = json.loads(done.stdout)
        assert done.returncode == 0 and rows and all(isinstance(row["name"], str) for row in rows)
    assert {"pgd", "mim"} <= {row["name"] for row in rows}


def test_list_filters(tmp_path: Path) -> None:
    done = run(tmp_path, "zoo", "list", "digits-*", "--bits", "2", "--family", "quantized", "--json")
    rows = json.loads(done.stdout)
    assert rows and all(row["bits"].endswith("/2") and row["family"] == "quantized" for row in rows)


def test_show_says_where_the_bytes_come_from_and_what_is_unknown(tmp_path: Path) -> None:
    facts = json.loads(run(tmp_path, "zoo", "show", "resnet34-2bit", "--json").stdout)
    assert facts["route"] == "build" and "weights" in facts["unknown"] and facts["quant"]["w_bits"] == 2


def test_pull_of_what_is_not_published_names_the_command_its_data_and_its_cost(tmp_path: Path) -> None:
    refused(run(tmp_path, "zoo", "pull", "resnet34-2bit"), "zoo build resnet34-2bit", "imagenet", "100 epochs")


def test_pull_of_a_bundled_model_prints_its_file(tmp_path: Path) -> None:
    done = run(tmp_path, "zoo", "pull", "digits-resnet14-2bit")
    assert done.returncode == 0 and "digits-resnet14-2bit" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zoo", "show", "resnet34-2bits"), ("did you mean 'resnet34-2bit'", "zoo list 'resnet34*'")),
        (("zoo", "eval", "digits-nothing"), ("unknown model",)),
        (("zoo", "--registry", "absent.yaml", "list"), ("absent.yaml", "cannot be read")),
        (("zoo", "eval", "digits-vgg", "--limit", "-3"), ("--limit",)),
        (("harness", "run", "--suite", "digits-qn"), ("unknown suite 'digits-qn'", "digits-qnn")),
        (("harness", "run", "--suite", "digits-qnn", "--attack", "pgdd"), ("unknown attack 'pgdd'", "pgd")),
        (("harness", "run", "--suite", "digits-qnn", "--substitute", "digits-vg"), ("no substitute 'digits-vg'",)),
        (("harness", "run", "--suite", "digits-qnn", "--target", "digits-vg"), ("no target 'digits-vg'",)),
        (("harness", "run", "--suite", "digits-qnn", "--limit", "-1"), ("--limit",)),
        (("harness", "run", "--suite", "digits-qnn", "--device", "cuda:7"), ("device 'cuda:7' cannot be used",)),
        (("harness", "run", "--suite", "digits-qnn", "--device", "warp"), ("device 'warp' cannot be used",)),
        (("harness", "board", "--suite", "digits-qnn"), ("holds no leaderboard", "harness run --suite digits-qnn")),
        (("harness", "resume"), ("no unfinished run",)),
        (("harness", "resume", "--suite", "*"), ("no unfinished run",)),
        (("harness", "resume", "--suite", str(ROOT / "harness/suites/digits-qnn.yaml")), ("no unfinished run", "digits-qnn")),
    ],
)
def test_a_mistake_ends_in_one_paragraph_and_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(run(tmp_path, *arguments), *words)
    assert not list(tmp_path.rglob("*.json")) and not (tmp_path / "leaderboards").exists()


def test_a_broken_registry_file_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nmodels:\n  a: {\n", encoding="utf-8")
    refused(run(tmp_path, "zoo", "--registry", "bad.yaml", "list"), "bad.yaml:4")


def test_a_broken_suite_file_names_its_key(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\nversion: one\n", encoding="utf-8")
    refused(run(tmp_path, "harness", "run", "--suite", "bad.yaml"), "bad.yaml")
