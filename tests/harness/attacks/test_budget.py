"""Attacks at a given cost, and confined to a patch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.attacks import Attack, Rng, get
from harness.attacks.budget import at_cost, confined
from harness.attacks.registry import PRESETS
from harness.suites.suite import Budget, Suite, load
from tests.harness.attacks.nets import EPS, images, net, pool
from zoo.errors import UserError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_setting_of_60_passes(name: str) -> None:
    published = get(name)
    assert isinstance(published, Attack)
    scaled = at_cost(published, 10, 60)
    cost = scaled.cost(10).backwards
    assert 45 <= cost <= 60, "and comes near to it"
    more = published.cost(10).backwards > 60
    length = (published.steps or 10) * (published.step_size or 1 / (published.steps or 10))
    steps = scaled.steps or 10
    assert steps * (scaled.step_size or 1 / steps) == pytest.approx(length), "the path stays as long"
    assert scaled.loss.__class__ is published.loss.__class__ and (not more or scaled != published)
    assert at_cost(published, 10, published.cost(10).backwards) == published


def test_copies_go_before_steps() -> None:
    assert at_cost(get("mim"), 10, 60) == get("mim").but(steps=60)  # type: ignore[arg-type, attr-defined]
    thinned = at_cost(get("ssa"), 10, 60)  # type: ignore[arg-type]
    assert thinned.transforms[0].copies == 6 and thinned.steps is None
    assert at_cost(get("ssa"), 10, 5).steps == 5  # type: ignore[arg-type]
    with pytest.raises(UserError, match="takes 2 gradient passes"):
        at_cost(get("pgn"), 10, 1)  # type: ignore[arg-type]


def test_attacks_with_a_loop_of_their_own_cannot_be_scaled() -> None:
    foreign = get("torchattacks:PGD")
    assert confined(foreign, 10, None, None) is foreign
    with pytest.raises(UserError, match="cannot be scaled"):
        confined(foreign, 10, 60, None)


def test_a_patch_of_the_budget_confines_every_attack() -> None:
    x, y = images()
    attack = confined(get("mim"), 10, None, 0.05)
    adv = attack(net(), x, y, eps=1.0, steps=4, rng=Rng(0, range(3)), pool=pool())
    changed = ((adv - x).abs() > 0).any(1).double().mean((1, 2))
    assert 0 < changed.max() <= 0.05 and (adv - x).abs().max() > 8 * EPS


def test_suites_without_limits_keep_their_digest() -> None:
    plain, limited = Budget(levels=32), Budget(levels=32, passes=60, patch=0.05)
    assert plain.model_dump(mode="json") == {"norm": "linf", "levels": 32}
    assert limited.model_dump(mode="json") == {"norm": "linf", "levels": 32, "passes": 60, "patch": 0.05}
    assert Budget.model_validate(limited.model_dump()) == limited
    assert "passes" not in load("digits-qnn").canonical()["budget"]


def test_a_run_brings_attacks_to_the_budget_and_refuses_pixels_outside_the_patch(tmp_path: Path) -> None:
    from harness.runs.craft import _check_area
    from harness.runs.workspace import Context, Workspace

    suite: Suite = load("digits-attacks-40")
    attack = Workspace(Context(suite, (), "cpu")).attack("ops")
    assert attack.cost(10) == (40, 40) and "operators" in repr(attack)
    clean = torch.zeros(2, 1, 10, 10, dtype=torch.uint8)
    adv = clean.clone()
    adv[1, 0, :2, :3] = 9
    _check_area(adv, clean, 0.06)
    with pytest.raises(UserError, match=r"6.0% of its pixels"):
        _check_area(adv, clean, 0.05)
