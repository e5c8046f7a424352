"""Registries: what is right loads, what is wrong ends in one sentence that says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.errors import UserError
from zoo.registry import load, main_file

BASE = """
version: 1
models:
  tiny:
    family: standard
    data: digits
    arch: zoo:digits-resnet8
    classes: 10
    input: {size: 16, channels: 1, mean: [0.5], std: [0.5]}
"""

BOMB = (
    "l0: &l0 [x]\n"
    + "".join(f"l{i}: &l{i} {{a: [*l{i - 1}, *l{i - 1}, *l{i - 1}, *l{i - 1}], b: *l{i - 1}}}\n" for i in range(1, 15))
    + "version: 1\nmodels: *l14\n"
)
QUANTIZED = BASE.replace("standard", "quantized").replace("{", "{{").replace("}", "}}") + "    quant: {{{}}}\n"


def overlay(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(tmp_path: Path, text: str, *words: str) -> None:
    path = overlay(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load([path])
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and all(w in message for w in words), message


def test_packaged_registry_loads_and_names_what_the_readme_names() -> None:
    registry = load()
    assert main_file().is_file()
    assert {"digits-resnet14", "digits-resnet14-2bit", "digits-resnet14-2bit-qaa", "resnet34-2bit"} <= set(registry)
    entry = registry["digits-resnet14-2bit-qaa"]
    assert entry.alternation is not None and entry.alternation.states == ("w", "wa") and entry.alternation.every == "iteration"


def test_overlay_adds_and_shadowing_is_announced(tmp_path: Path) -> None:
    registry = load([overlay(tmp_path, BASE)])
    assert registry["tiny"].arch == "zoo:digits-resnet8" and registry.shadowed == ()
    again = load([overlay(tmp_path, BASE), overlay(tmp_path, BASE.replace("classes: 10", "classes: 11"), "b.yaml")])
    assert again["tiny"].classes == 11 and again.shadowed == ("tiny",)


def test_environment_variable_names_overlays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_REGISTRY", str(overlay(tmp_path, BASE)))
    assert "tiny" in load()


def test_parent_supplies_the_network_but_neither_weights_nor_recipe_nor_accuracy(tmp_path: Path) -> None:
    text = BASE + (
        "    weights: {url: 'https://example.org/a.safetensors'}\n"
        "    recipe: {kind: train}\n"
        "    clean_accuracy: {top1: 99.0, data: digits, source: measured}\n"
        "  tiny-2bit:\n    parent: tiny\n    family: quantized\n    quant: {method: apot, w_bits: 2, a_bits: 2}\n"
    )
    child = load([overlay(tmp_path, text)])["tiny-2bit"]
    assert child.arch == "zoo:digits-resnet8" and child.input.mean == (0.5,)
    assert child.weights is None and child.recipe is None and child.clean_accuracy is None


def test_unknown_model_gets_a_suggestion() -> None:
    with pytest.raises(UserError) as caught:
        load()["resnet34-2bits"]
    assert str(caught.value) == "unknown model 'resnet34-2bits'; did you mean 'resnet34-2bit'? (zoo list 'resnet34*')"


def test_wildcards_match_in_natural_order_and_an_empty_match_is_an_error() -> None:
    names = [e.name for e in load().match(["digits-resnet*"])]
    assert names.index("digits-resnet8") < names.index("digits-resnet14")
    with pytest.raises(UserError, match="no model is named like 'nothing-\\*'"):
        load().match(["nothing-*"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nmodels:\n  a: {family: standard}\n  a: {family: standard}\n", ("duplicate key 'a'", ":4")),
        (BASE + "    colour: red\n", ("models.tiny.colour", "Extra inputs")),
        (BASE.replace("classes: 10", "classes: ten"), ("models.tiny.classes", "'ten'")),
        (BASE.replace("classes: 10", "classes: '10'"), ("models.tiny.classes",)),
        (BASE.replace("mean: [0.5]", "mean: [0.5, 0.5]"), ("models.tiny.input", "mean and std need 1 values")),
        (BASE + "    parent: absent\n", ("models.tiny.parent", "'absent'")),
        (BASE + "    parent: b\n  b: {parent: tiny}\n", ("parents run in a circle",)),
        (BASE + "    recipe: {kind: qat, start: tiny}\n", ("recipes run in a circle",)),
        (BASE + "    recipe: {kind: qat, start: gone}\n", ("recipe.start", "'gone'")),
        (BASE.replace("  tiny:", "  ../tiny:"), ("models.../tiny.name",)),
        (BASE + "    weights: {bundled: ../../etc/passwd}\n", ("weights.bundled",)),
        (BASE + "    weights: {bundled: /etc/passwd}\n", ("weights.bundled",)),
        (BASE + "    weights: {hub: {repo: a/b, revision: main}}\n", ("weights.hub.revision",)),
        (BASE + "    weights: {sha256: abc}\n", ("weights",)),
        (BASE + "    weights: {url: 'file:///etc/passwd'}\n", ("weights.url",)),
        (BASE + "    alternation: {states: [w, wa]}\n", ("alternation needs quant",)),
        (BASE + "    quant: {method: apot, w_bits: 2, a_bits: 2}\n", ("family: quantized",)),
        (BASE.replace("family: standard", "family: quantized"), ("quant is missing",)),
        (QUANTIZED.format("method: apot, w_bits: 8, a_bits: 8"), ("models.tiny", "no w_bits=8", "'uniform'")),
        (QUANTIZED.format("method: xnor, w_bits: 1, a_bits: 2"), ("models.tiny", "no a_bits=2")),
        (QUANTIZED.format("method: qdrop, w_bits: 4, a_bits: 4, edge_bits: 16"), ("models.tiny", "edge_bits=16")),
        *[
            (BASE.replace("zoo:digits-resnet8", f"timm:resnet18\n    arch_args: {{{key}: a}}"), ("models.tiny", key))
            for key in ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
        ],
        (BASE.replace("mean: [0.5]", "mean: [.nan]"), ("models.tiny.input.mean", "finite number")),
        (BASE.replace("std: [0.5]", "std: [.inf]"), ("models.tiny.input.std", "finite number")),
        (BASE + "    recipe: {kind: train, lr: .inf}\n", ("recipe.lr", "finite number")),
        (BASE + "    recipe: {kind: train, momentum: .nan}\n", ("recipe.momentum", "finite number")),
        (BASE + "    recipe: {kind: train, options: {gamma: .nan}}\n", ("recipe.options.gamma", "finite number")),
        (BASE + "    recipe: {kind: train, options: {milestones: [1, -.inf]}}\n", ("recipe.options.milestones",)),
        (BASE.replace("classes: 10", "classes: 10\n    arch_args: {width: .inf}"), ("arch_args.width", "finite number")),
        (BASE + "    recipe: {kind: train, momentum: 1.0}\n", ("recipe.momentum", "less than 1")),
        (BASE + "    recipe: {kind: train, momentum: -0.1}\n", ("recipe.momentum", "greater than or equal to 0")),
        (BASE.replace("zoo:digits-resnet8", "os:system"), ("models.tiny.arch",)),
        ("version: 2\nmodels: {}\n", ("version: expected 1",)),
        ("version: 1\nmodels: []\n", ("models: expected a mapping",)),
        ("version: 1\nmodels: {a: 3}\n", ("models.a: expected a mapping",)),
        ("version: 1\nmodels: {}\nextra: 1\n", ("unknown key 'extra'",)),
        ("- 1\n", ("expected a mapping at the top",)),
        ("version: 1\nmodels: !!python/object/apply:os.system ['true']\n", ("could not determine a constructor",)),
        ("version: 1\nmodels: &a {b: *a}\n", ("recursive",)),
        (BOMB, ("aliases repeat one another", "1000000")),
        ("version: 1\nmodels: {a: [[[" + "[" * 5000 + "\n", ("mine.yaml",)),
        ("version: 1\nmodels: {2024-01-01: {}}\n", ("is not a string",)),
        ("version: 1\nmodels: {a: {notes: 2024-01-01}}\n", ("not plain text",)),
        ("version: 1\nmodels: {a: \x00}\n", ("mine.yaml",)),
    ],
)
def test_a_wrong_registry_is_refused_in_one_sentence(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    refused(tmp_path, text, *words)


def test_a_huge_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "version: 1\nmodels: {}\nnotes: " + "x" * (5 * 2**20), "larger than")
    with pytest.raises(UserError, match="cannot be read"):
        load([tmp_path / "absent.yaml"])


def test_two_entries_cannot_share_an_alias(tmp_path: Path) -> None:
    text = BASE + "    aliases: [small]\n  other:\n    parent: tiny\n    aliases: [small]\n"
    refused(tmp_path, text, "already names another model")
