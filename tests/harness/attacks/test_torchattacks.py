"""Against an independent implementation: equality step by step, and the adapter that runs it unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.attacks import (
    Attack,
    DiverseInput,
    Rng,
    ScaleInvariant,
    TranslationInvariant,
    Variance,
    as_model,
    get,
)
from harness.substitutes import Substitute
from tests.harness.attacks.nets import EPS, images, net, quantized
from zoo.errors import UserError

torchattacks = pytest.importorskip("torchattacks")
ALPHA = 2 / 255


class GlobalDraws(Rng):
    """Draws from torch's global generator in the order and the types of torchattacks, one draw for the whole batch."""

    def __init__(self, count: int, spare_normal: bool = False) -> None:
        super().__init__(0, range(count))
        self._spare_normal = spare_normal

    def fresh(self, stream: str = "") -> Rng:
        return self

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        if tuple(shape) == (4,):  # DI of SHRINK: the side, where it lies on its canvas, and whether it applies
            low, canvas = 14, 16
            side = int(torch.randint(low, canvas, (1,), dtype=torch.int32))
            room = canvas - side
            place = [(int(torch.randint(0, room, (1,))) + 0.5) / room for _ in range(2)]
            draws = [(side - low + 0.5) / (canvas - low), *place, float(torch.rand(1))]
            return torch.tensor(draws).expand(len(self), 4)
        like = torch.empty((len(self), *shape), dtype=torch.float64)
        return (torch.randn_like(like) if self._spare_normal else like).uniform_(low, high)


SHRINK = DiverseInput(low=0.9, high=1.0, prob=0.5, interpolation="bilinear")
STEP = ALPHA / EPS
PAIRS: dict[str, tuple[Attack, Callable[..., Any], bool]] = {
    # theirs starts at a uniform point as ours does
    "PGD": (Attack(step_size=STEP, random_start=True), lambda m, t: torchattacks.PGD(m, EPS, ALPHA, t), False),
    "MIFGSM": (Attack(step_size=STEP, decay=1.0), lambda m, t: torchattacks.MIFGSM(m, EPS, ALPHA, t), False),
    # ours takes sizes up to 331/299 and resizes back; theirs shrinks to 0.9 and pads: the same part with other settings
    "DIFGSM": (
        Attack(step_size=STEP, decay=1.0, transforms=(SHRINK,)),
        lambda m, t: torchattacks.DIFGSM(m, EPS, ALPHA, t, decay=1.0),
        False,
    ),
    # theirs includes DI; a bare TI has diversity_prob 0 there
    "TIFGSM": (
        Attack(step_size=STEP, decay=1.0, transforms=(SHRINK,), filters=(TranslationInvariant(),)),
        lambda m, t: torchattacks.TIFGSM(m, EPS, ALPHA, t, decay=1.0),
        False,
    ),
    "NIFGSM": (
        Attack(step_size=STEP, decay=1.0, lookahead=1.0),
        lambda m, t: torchattacks.NIFGSM(m, EPS, ALPHA, t),
        False,
    ),
    "SINIFGSM": (
        Attack(step_size=STEP, decay=1.0, lookahead=1.0, transforms=(ScaleInvariant(),)),
        lambda m, t: torchattacks.SINIFGSM(m, EPS, ALPHA, t),
        False,
    ),
    # theirs draws a normal and overwrites it; the published 20 samples are 5 there
    "VMIFGSM": (
        Attack(step_size=STEP, decay=1.0, variance=Variance(samples=5)),
        lambda m, t: torchattacks.VMIFGSM(m, EPS, ALPHA, t),
        True,
    ),
    "VNIFGSM": (
        Attack(step_size=STEP, decay=1.0, lookahead=1.0, variance=Variance(samples=5)),
        lambda m, t: torchattacks.VNIFGSM(m, EPS, ALPHA, t),
        True,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_step_by_step(name: str) -> None:
    ours, make, spare_normal = PAIRS[name]
    model, (x, y) = net(), images()
    for steps in range(1, 7):
        theirs = make(model, steps)
        if name == "TIFGSM":
            theirs.stacked_kernel = theirs.stacked_kernel.double()
        torch.manual_seed(steps)
        expected = theirs(x, y)
        torch.manual_seed(steps)
        adv = ours(model, x, y, eps=EPS, steps=steps, rng=GlobalDraws(3, spare_normal))
        assert (adv - expected).abs().max().item() < 1e-5


@pytest.mark.parametrize("name", ["MIFGSM", "NIFGSM"])
def test_equal_when_targeted(name: str) -> None:
    ours, make, _ = PAIRS[name]
    model, (x, y) = net(), images()
    theirs = make(model, 4)
    theirs.set_mode_targeted_by_label(quiet=True)
    target = (y + 1) % 5
    adv = ours(model, x, y, eps=EPS, steps=4, rng=GlobalDraws(3), target=target)
    assert (adv - theirs(x, target)).abs().max().item() < 1e-5


def test_adapter_runs_an_attack_unchanged_and_image_by_image() -> None:
    model, (x, y) = net(dtype=torch.float32), images(3, torch.float32)
    attack = get({"use": "torchattacks:VMIFGSM", "options": {"N": 2, "beta": 1.0}})
    adv = attack(model, x, y, eps=EPS, steps=3, rng=Rng(0, range(3)))
    state = torch.get_rng_state()
    again = attack(model, x[[2, 0]], y[[2, 0]], eps=EPS, steps=3, rng=Rng(0, [2, 0]))
    assert torch.equal(again, adv[[2, 0]]) and torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(Rng(0, [1]).seeds[0])
    theirs = torchattacks.VMIFGSM(model, eps=EPS, alpha=EPS / 3, steps=3, N=2, beta=1.0)
    assert torch.allclose(adv[1:2], theirs(x[1:2], y[1:2]), atol=1e-6)
    assert 15.99 < (adv - x).abs().max() * 255 < 16.01
    assert "3.5" in repr(attack) and "'N', 2" in repr(attack) and attack.cost(3) is None


def test_adapter_moves_the_schedule_with_iterations() -> None:
    seen: list[bool] = []
    crafter = Substitute(quantized(dtype=torch.float32), ("w", "wa"))
    from zoo.quant import activation_quantizers

    quantizer = next(iter(activation_quantizers(crafter.module).values()))
    crafter.module.register_forward_pre_hook(lambda *_: seen.append(quantizer.enabled))
    x, y = images(1, torch.float32)
    with crafter.session():
        get("torchattacks:MIFGSM")(crafter, x, y, eps=EPS, steps=4, rng=Rng(0, [0]))
        assert seen == [False, True, False, True]
        seen.clear()
        spec = {"use": "torchattacks:VMIFGSM", "options": {"N": 1, "forwards": 2}}
        get(spec)(crafter, x, y, eps=EPS, steps=2, rng=Rng(0, [0]))
        assert seen == [False, False, True, True]


@pytest.mark.parametrize("name", ["PGD", "PIFGSMPP", "JSMA", "Pixle"])
def test_adapter_takes_attacks_of_every_signature(name: str) -> None:
    model, (x, y) = net(dtype=torch.float32), images(2, torch.float32)
    options: dict[str, object] = {"Pixle": {"max_iterations": 2, "restarts": 1}, "JSMA": {"gamma": 0.01}}.get(name, {})
    adv = get({"use": f"torchattacks:{name}", "options": options})(model, x, y, eps=EPS, steps=2, rng=Rng(0, range(2)))
    assert (adv - x).abs().max() <= EPS + 1e-6 and adv.min() >= 0 and adv.max() <= 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchattacks:MIFGSN", "did you mean 'MIFGSM'"),
        ({"use": "torchattacks:MIFGSM", "options": {"decoy": 1.0}}, "did you mean 'decay'"),
        ({"use": "torchattacks:MIFGSM", "options": {"forwards": 0}}, "at least 1"),
    ],
)
def test_adapter_misuse(spec: Any, words: str) -> None:
    x, y = images(1, torch.float32)
    with pytest.raises(UserError, match=words):
        get(spec)(as_model(net(dtype=torch.float32)), x, y, eps=EPS, steps=1, rng=Rng(0, [0]))


def classes() -> list[str]:
    return [name for name, kind in vars(torchattacks).items() if isinstance(kind, type) and hasattr(kind, "forward")]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", classes())
def test_every_class_runs_or_says_why_it_does_not(name: str, channels: int) -> None:
    """What docs/attacks.md claims of the package."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(channels, 4, 3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    x = torch.rand(1, channels, 16, 16)
    options: dict[str, object] = {
        "Pixle": {"max_iterations": 2, "restarts": 1},
        "JSMA": {"gamma": 0.01},
        "SPSA": {"nb_iter": 1, "nb_sample": 2},
        "Square": {"n_queries": 20},
        "EADEN": {"binary_search_steps": 1, "max_iterations": 10},
        "EADL1": {"binary_search_steps": 1, "max_iterations": 10},
        "OnePixel": {"popsize": 2},
        "AutoAttack": {"version": "rand"},
    }.get(name, {})
    refusal = {"MultiAttack": "made already", "LGV": "trains the substitute"}.get(name)
    if channels == 1 and name in ("TIFGSM", "PIFGSM", "PIFGSMPP"):
        refusal = "three channels"

    def attack() -> Tensor:
        made = get({"use": f"torchattacks:{name}", "options": options})
        return made(model, x, model(x).argmax(1), eps=8 / 255, steps=2, rng=Rng(0, [0]))

    if refusal is not None:
        with pytest.raises(UserError, match=refusal):
            attack()
        return
    adv = attack()
    assert adv.shape == x.shape and float((adv - x).abs().max()) <= 8 / 255 + 1e-6
