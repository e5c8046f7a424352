"""Bytes of adversarial images, pinned: red when projection, rounding, alternation or seeding change.

The network's weights and the images are arithmetic, so that nothing but the attack, its substitute and its draws decide.
A deliberate change of any of them moves benchmark numbers: give every suite a new version along with the new digest here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from harness.attacks import Attack, Images, Rng, get
from harness.runs.craft import to_bytes
from harness.substitutes import Substitute
from tests.harness.attacks.nets import TinyResNet
from zoo.quant import calibrate, quantize
from zoo.registry.entry import QuantSpec, State


def wave(*shape: int) -> Tensor:
    """Return numbers in [-1, 1] without a pattern and without a generator."""
    count = torch.arange(int(torch.tensor(shape).prod()), dtype=torch.float64)
    return torch.cos(count * count * 0.7 + count).reshape(shape)


def network() -> nn.Module:
    module = TinyResNet().double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(wave(*parameter.shape) / parameter[0].numel() ** 0.5 * 1.5)
            elif ".bn" not in name:
                parameter.copy_(wave(*parameter.shape) * 0.1)
    calibrate(quantize(module, QuantSpec(method="apot", w_bits=2, a_bits=2)), pixels().double() / 255)
    return module.eval()


def pixels() -> Tensor:
    return ((wave(2, 3, 16, 16) * 150) + 128).round().clamp(0, 255).to(torch.uint8)


def digest(attack: Attack, states: Sequence[State], seed: int = 0, levels: int = 16) -> str:
    clean, labels = pixels(), torch.tensor([1, 3])
    crafter = Substitute(network(), states, feature_layer="layer1")
    pool = Images(clean, labels)
    with crafter.session():
        adv = attack(crafter, clean.double() / 255, labels, eps=levels / 255, steps=4, rng=Rng(seed, [5, 6]), pool=pool)
    return hashlib.sha256(to_bytes(adv, clean, levels).numpy().tobytes()).hexdigest()[:12]


CASES: dict[str, tuple[str, tuple[State, ...], int, int]] = {
    "mim-qaa": ("mim", ("w", "wa"), 0, 16),
    "mim-reversed": ("mim", ("wa", "w"), 0, 16),
    "mim-2bit": ("mim", ("wa",), 0, 16),
    "mim-ptq": ("mim", ("fp", "wa"), 0, 16),
    "mim-levels-5": ("mim", ("w", "wa"), 0, 5),
    "pgd": ("pgd", ("w", "wa"), 0, 16),
    "pgd-seed-1": ("pgd", ("w", "wa"), 1, 16),
    "cim": ("cim", ("w", "wa"), 0, 16),
    "admix": ("admix", ("w", "wa"), 0, 16),
    "fia": ("fia", ("w", "wa"), 0, 16),
    "rpa": ("rpa", ("w", "wa"), 0, 16),
    "ssa": ("ssa", ("w", "wa"), 0, 16),
}
GOLDEN = {
    "mim-qaa": "03183208078e",
    "mim-reversed": "e5e93caa0205",
    "mim-2bit": "c76c7e7fd57d",
    "mim-ptq": "9a35e0793aa6",
    "mim-levels-5": "eb6190916fe0",
    "pgd": "76effc591a1f",
    "pgd-seed-1": "a0fe8234842e",
    "cim": "3cc77dc74fe0",
    "admix": "6587ac8e67ec",
    "fia": "e0476a570d5e",
    "rpa": "83c3f2a0082f",
    "ssa": "165d6c2e2d9e",
}


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_pinned(name: str) -> None:
    attack, states, seed, levels = CASES[name]
    made = get(attack)
    assert isinstance(made, Attack)
    assert digest(made, states, seed, levels) == GOLDEN[name]


def test_goldens_tell_cases_apart() -> None:
    assert len(set(GOLDEN.values())) == len(CASES) == len(GOLDEN)
