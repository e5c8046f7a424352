"""Bytes of adversarial images of every preset at its own settings: `python -m tests.harness.attacks.goldens` pins them anew.

The network's weights and the images are arithmetic, so that nothing but the attack, its substitute and its draws decide.
A deliberate change of any of them moves benchmark numbers: give every suite that it touches a new version.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.attacks import AttackLike, Images, Rng, get
from harness.attacks.registry import PRESETS
from harness.runs.craft import to_bytes
from harness.substitutes import Crafter, Substitute, ensemble
from tests.harness.attacks.nets import ARCHS
from zoo.quant import calibrate, quantize
from zoo.registry.entry import QuantSpec, State

FILE = Path(__file__).with_name("goldens.json")


def wave(*shape: int) -> Tensor:
    """Return numbers in [-1, 1] without a pattern and without a generator.

    They are remainders of integers, exact on every processor: cosines differ in their last bits between instruction sets, and
    so do the bytes of attacks on networks that are made of them.
    """
    count = torch.arange(int(torch.tensor(shape).prod()), dtype=torch.int64)
    return (((count * count * 40503 + count * 30011 + 7919) % 65521).double() / 32760 - 1).reshape(shape)


def network(arch: str) -> nn.Module:
    module = ARCHS[arch][0]().double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(wave(*parameter.shape) / parameter[0].numel() ** 0.5 * 1.5)
            elif ".bn" not in name and "norm" not in name:
                parameter.copy_(wave(*parameter.shape) * 0.1)
    calibrate(quantize(module, QuantSpec(method="apot", w_bits=2, a_bits=2)), pixels().double() / 255)
    return module.eval()


def pixels() -> Tensor:
    return ((wave(2, 3, 16, 16) * 150) + 128).round().clamp(0, 255).to(torch.uint8)


def digest(attack: AttackLike, states: Sequence[State], seed: int = 0, levels: int = 16, arch: str = "resnet") -> str:
    clean, labels = pixels(), torch.tensor([1, 3])
    crafter: Crafter = Substitute(network(arch), states, feature_layer=ARCHS[arch][1])
    if attack.category == "ensemble":
        crafter = ensemble([crafter, Substitute(network(arch), ("wa",))], "logits")
    pool = Images(clean, labels)
    with crafter.session():
        adv = attack(crafter, clean.double() / 255, labels, eps=levels / 255, steps=4, rng=Rng(seed, [5, 6]), pool=pool)
    return hashlib.sha256(to_bytes(adv, clean, levels).numpy().tobytes()).hexdigest()[:12]


VARIANTS: dict[str, tuple[str, tuple[State, ...], int, int]] = {
    "mim, states reversed": ("mim", ("wa", "w"), 0, 16),
    "mim, 2-bit": ("mim", ("wa",), 0, 16),
    "mim, weights too": ("mim", ("fp", "wa"), 0, 16),
    "mim, 5 levels": ("mim", ("w", "wa"), 0, 5),
    "pgd, seed 1": ("pgd", ("w", "wa"), 1, 16),
}
LEVELS = {"ssa-released": 8}
"""At 16 levels, where its fixed sigma is eps, it is `s2i-fgsm`."""
CASES = {name: (name, ("w", "wa"), 0, LEVELS.get(name, 16)) for name in PRESETS} | VARIANTS
"""What is pinned -> preset, states of the substitute, seed, levels."""


def made(case: str) -> str:
    """Return the digest of a case as the code makes it now."""
    name, states, seed, levels = CASES[case]
    return digest(get(name), states, seed, levels, "vit" if name == "tgr" else "resnet")


def main() -> None:
    """Write the digests of all cases, and print which ones moved."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = {case: made(case) for case in CASES}
    FILE.write_text(json.dumps(found, indent=2) + "\n")
    moved = [case for case in found if known.get(case) != found[case]]
    sys.stdout.write(f"{len(found)} pinned; new or moved: {', '.join(moved) or 'none'}\n")


if __name__ == "__main__":
    main()
