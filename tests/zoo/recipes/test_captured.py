"""Captured steps are plain steps, precision is declared, and draws do not depend on where the pixels are."""

from __future__ import annotations

import pytest
import torch

from tests.zoo.recipes.conftest import TWO_BITS, Builder, make_entry
from zoo.errors import UserError
from zoo.recipes import captured
from zoo.recipes.augment import KINDS, augment, draw, view
from zoo.recipes.plan import plan
from zoo.recipes.seeds import stream


@pytest.mark.parametrize("kind", KINDS)
def test_views_made_of_draws_are_those_made_at_once(kind: str) -> None:
    images = torch.randint(0, 256, (6, 3, 40, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    at_once = augment(images, kind, stream(3, "augment"), 32)
    draws = draw(6, images.shape[-2:], kind, stream(3, "augment"), 32)
    assert torch.equal(at_once, view(images, kind, draws, 32))


def test_a_crop_is_the_window_that_was_drawn() -> None:
    images = torch.arange(2 * 32 * 32, dtype=torch.int64).remainder(251).to(torch.uint8).view(2, 1, 32, 32)
    draws = captured.Draws(torch.tensor([0, 8]), torch.tensor([4, 2]), torch.tensor([False, True]))
    first, second = view(images, "crop-flip", draws, 32)
    padded = torch.nn.functional.pad(images.float() / 255, (4, 4, 4, 4))
    assert torch.equal(first, padded[0, :, 0:32, 4:36])
    assert torch.equal(second, padded[1, :, 8:40, 2:34].flip(-1))


def test_an_unknown_precision_is_refused() -> None:
    entry = make_entry("one", None, options={"precision": "half"})
    with pytest.raises(UserError, match=r"recipe.options.precision: must be one of exact, tf32, bf16, is 'half'"):
        plan(entry)


def test_precision_and_layout_are_a_part_of_what_is_made(builder: Builder) -> None:
    plain = builder(make_entry("one", None, options={"threads": 1}))
    again = builder(make_entry("two", None, options={"threads": 1}))
    coarse = builder(make_entry("three", None, options={"threads": 1, "precision": "bf16", "channels_last": True}))
    weights = [builder.load(name).net.state_dict() for name in ("one", "two", "three")]
    same = [all(torch.equal(a, b) for a, b in zip(weights[0].values(), w.values(), strict=True)) for w in weights[1:]]
    assert same == [True, False] and coarse.log["recipe"]["options"]["precision"] == "bf16"
    assert plain.log["epochs"] == again.log["epochs"] != coarse.log["epochs"]


@pytest.mark.gpu
@pytest.mark.parametrize("quant", [None, TWO_BITS])
def test_captured_steps_give_the_bits_of_plain_ones(builder: Builder, monkeypatch: pytest.MonkeyPatch, quant: object) -> None:
    states = {"states": ("w", "wa")} if quant else {}
    builder(make_entry("graph", quant, **states), device="cuda:0")
    monkeypatch.setattr(captured, "PLAIN_STEPS", 10**9)
    builder(make_entry("plain", quant, **states), device="cuda:0")
    graph, plain = (builder.load(name).net.state_dict() for name in ("graph", "plain"))
    assert all(torch.equal(graph[key], plain[key]) for key in plain)
