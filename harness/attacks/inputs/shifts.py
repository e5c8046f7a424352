"""ANDA: the mean gradient over shifted copies and over all iterations so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.inputs.geometry import identity, read
from harness.attacks.parts import Batch, part, require
from harness.attacks.registry import preset


@part("transforms", "shift-grid")
@dataclass(frozen=True)
class ShiftGrid:
    """Copies shifted over a square grid of sqrt(copies) steps a side, by up to `reach` of half the image; black enters.

    Fang et al., "Strong Transferable Adversarial Attacks via Ensembled Asymptotically Normal Distribution Learning", CVPR
    2024, Sec. 3.3 (25 copies, reach 0.3), bilinear as in the authors' code.
    """

    copies: int = 25
    reach: float = 0.3
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.copies >= 1 and math.isqrt(self.copies) ** 2 == self.copies,
            "copies of shift-grid is a square number",
            self.copies,
        )

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the shifted images."""
        side = math.isqrt(self.copies)
        offsets = torch.linspace(-self.reach, self.reach, side, dtype=torch.float64).tolist() if side > 1 else [0.0]
        right, down = offsets[copy // side] * x.shape[3] / 2, offsets[copy % side] * x.shape[2] / 2
        rows, columns = identity(x)
        return read(x, (rows + down, columns + right))


@preset("anda", category="gradient stabilisation", source="Fang et al., CVPR 2024, Alg. 1")
def anda() -> Attack:
    """Steps along the sign of the mean gradient of all 25 shifted copies of all iterations so far (`sample` off).

    A mean over iterations and an undamped sum of gradients as they are have one sign: decay 1.0 without normalising.
    Cross-entropy, as the authors' code. MultiANDA's parallel starts are left out.
    """
    return Attack(transforms=(ShiftGrid(),), decay=1.0, normalise=False)
