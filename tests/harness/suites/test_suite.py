"""Suites: strict, inheriting, and identified by what can move a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.suites.selection import Selection
from harness.suites.suite import load, names
from zoo.errors import UserError
from zoo.registry import load as load_registry

BASE = """
name: tiny
version: 1
title: A tiny suite
data: {name: digits, split: test, limit: 20}
budget: {norm: linf, levels: 32}
steps: 2
attacks: [pgd]
substitutes: [digits-resnet14]
targets: {Standard: [digits-vgg]}
"""


def write(tmp_path: Path, text: str, name: str = "tiny.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", names())
def test_every_suite_that_ships_is_valid_and_names_known_models(name: str) -> None:
    suite, registry = load(name), load_registry()
    assert suite.name == name
    assert [m for m in suite.model_names if m not in registry] == []


def test_a_suite_of_the_users_own_may_include_another(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    assert load(write(tmp_path, "include: tiny\nname: short\n", "short.yaml")).steps == 2
    child = load(write(tmp_path, "include: tiny.yaml\nname: child\nsteps: 5\n", "child.yaml"))
    assert (child.name, child.steps, child.budget.levels) == ("child", 5, 32)


def test_the_digest_follows_what_moves_numbers_and_nothing_else(tmp_path: Path) -> None:
    def digest(text: str, weights: str = "a" * 64, data: str = "d" * 64) -> str:
        return load(write(tmp_path, text, f"s{abs(hash((text, weights)))}.yaml")).digest({"digits-vgg": weights}, data)

    base = digest(BASE)
    assert digest(BASE.replace("A tiny suite", "Another title")) == base
    assert digest(BASE.replace("[pgd]", "[pgd, mim]")) == base
    moved = [BASE.replace("32", "31"), BASE.replace("steps: 2", "steps: 3"), BASE + "transport: jpeg75\n", BASE + "block: 8\n"]
    assert base not in [digest(text) for text in moved]
    assert digest(BASE, weights="b" * 64) != base and digest(BASE, data="e" * 64) != base


def test_reported_figures_have_a_compact_form(tmp_path: Path) -> None:
    text = BASE + "reported: {source: Table II, digits-resnet14: {mim: {digits-vgg: 43.8}}}\n"
    (figure,) = load(write(tmp_path, text)).reported
    assert (figure.substitute, figure.attack, figure.target, figure.asr, figure.source) == (
        "digits-resnet14",
        "mim",
        "digits-vgg",
        43.8,
        "Table II",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "colour: red\n", "tiny.yaml.colour"),
        (BASE.replace("levels: 32", "levels: 0"), "budget.levels"),
        (BASE.replace("levels: 32", "levels: 0.125"), "budget.levels"),
        (BASE.replace("[pgd]", "[]"), "attacks"),
        (BASE.replace("[pgd]", "[pgd, pgd]"), "listed twice"),
        (BASE.replace("[pgd]", "[{name: FIA+TI, base: fia}]"), "lower-case letters"),
        (BASE.replace("[pgd]", "['torchattacks:PGD']"), "{name: my-attack, use:"),
        (BASE + "seeds: [-1]\n", "seeds.0: Input should be greater than or equal to 0"),
        (BASE.replace("{Standard: [digits-vgg]}", "{}"), "at least one target"),
        (BASE + "pairs: [{substitute: digits-resnet14, baseline: digits-resnet8}]\n", "no substitute of the suite"),
        (BASE.replace("[digits-resnet14]", "[{name: e, models: [digits-vgg, digits-nin]}]"), "several models need"),
        (BASE.replace("[digits-resnet14]", "[{name: e, models: [digits-vgg], options: {a: 1}}]"), "substitutes.0.options"),
        (BASE + "include: tiny.yaml\n", "include runs in a circle"),
        (BASE + "include: ../other.yaml\n", "include: expected a suite"),
        (BASE + "reported: {digits-resnet14: 3}\n", "reported.digits-resnet14"),
        (BASE.replace("steps: 2", "steps: 2\nsteps: 3"), "duplicate key 'steps'"),
    ],
)
def test_a_wrong_suite_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_negative_seed_is_refused_whoever_asks(tmp_path: Path) -> None:
    suite = load(write(tmp_path, BASE))
    with pytest.raises(UserError, match="from 0 up"):
        Selection(seeds=(0, -1)).jobs(suite)


def test_unknown_suite_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'digits-qnn'"):
        load("digit-qnn")
