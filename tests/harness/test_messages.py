"""What a user is told: one sentence, once, with a way out; and what he may type where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import main as harness_main
from harness.runs.lacking import summed
from tests.harness.tiny import make
from zoo.cli import main as zoo_main
from zoo.devices import check_device
from zoo.errors import UserError
from zoo.loading.load import missing_message
from zoo.registry import load


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99", "GPU"])
def test_a_device_that_cannot_be_used_is_one_short_sentence(device: str) -> None:
    with pytest.raises(UserError) as refused:
        check_device(device)
    text = str(refused.value)
    assert text.startswith(f"device {device!r} cannot be used (") and "; use cpu" in text and len(text) < 140, text


def test_the_same_reason_is_said_once_with_all_names() -> None:
    registry = load()
    names = ["resnet50-8bit", "resnet50-4bit", "resnet50-2bit", "vgg16-2bit"]
    blocked = {name: missing_message(registry[name]) for name in names}
    blocked["vgg16-2bit x mim"] = f"vgg16-2bit x mim: {blocked['vgg16-2bit']}"
    [first, second] = summed(blocked, registry, "imagenet-qnn")
    assert first.startswith("to build (zoo build --suite imagenet-qnn") and first.endswith(", ".join(names))
    assert second.startswith("vgg16-2bit x mim: ")
    unfit = {name: f"{name} classifies nothing; see zoo eval {name}" for name in ("digits-vgg", "digits-nin")}
    assert summed(unfit, registry, "digits-qnn") == ["digits-vgg, digits-nin: NAME classifies nothing; see zoo eval NAME"]
    assert summed({"digits-vgg": "why"}, registry, "x") == ["why"]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (("--data", "digit"), "none has data digit; did you mean 'digits'?; there are cifar10, digits, imagenet"),
        (("--method", "aptt"), "did you mean 'apot'"),
        (("--arch", "zoo:vgg-16pix"), "did you mean 'zoo:vgg-16px'"),
        (("--bits", "31"), "there are 1, 2, 3, 4"),
        (("--family", "standard", "--bits", "2"), "each of these alone has some"),
        (("--data", "digit", "--json"), "none has data digit"),
    ],
)
def test_filters_that_match_nothing_say_so(filters: tuple[str, ...], words: str) -> None:
    told = CliRunner().invoke(zoo_main, ["list", *filters])
    assert told.exit_code == 2 and told.stdout == "" and words in told.stderr, told.output


def test_models_are_listed_with_their_download_size() -> None:
    [row] = json.loads(CliRunner().invoke(zoo_main, ["list", "resnet34", "--json"]).stdout)
    assert row["size"] == load()["resnet34"].weights.size  # type: ignore[union-attr]
    assert "87.3 MB" in CliRunner().invoke(zoo_main, ["list", "resnet34"]).stdout


def test_a_registry_may_be_named_anywhere(tmp_path: Path) -> None:
    _, registry = make(tmp_path)
    for given in (["--registry", str(registry), "list", "tiny-vgg*"], ["list", "tiny-vgg*", "--registry", str(registry)]):
        assert CliRunner().invoke(zoo_main, given).stdout.count("\ntiny-vgg") == 2
    assert "tiny-vgg" in CliRunner().invoke(zoo_main, ["show", f"--registry={registry}", "tiny-vgg"]).stdout
    assert CliRunner().invoke(zoo_main, ["list", "--registry"]).exit_code == 2
    plan = ["plan", "--suite", str(tmp_path / "tiny.yaml"), "--no-measure", "--registry", str(registry), "--out", str(tmp_path)]
    made = CliRunner().invoke(harness_main, plan)
    assert made.exit_code == 0, made.output


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("zoo", "zoo show digits-resnet14-2", {"digits-resnet14-2bit", "digits-resnet14-2bit-qaa"}),
        ("harness", "harness run --suite digits-q", {"digits-qnn"}),
        ("harness", "harness run --suite digits-qnn --substitute digits-vgg-2", {"digits-vgg-2bit", "digits-vgg-2bit-qaa"}),
        ("harness", "harness run --suite digits-qnn --attack mim,vm", {"mim,vmi"}),
    ],
)
def test_names_are_completed(program: str, words: str, expected: set[str]) -> None:
    code = f"from {program}.cli import main; main(prog_name={program!r})"
    asked = {f"_{program.upper()}_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected <= {line.partition(",")[2] for line in told.stdout.splitlines()}, told
