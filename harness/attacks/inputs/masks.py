"""Copies of which a block is blacked out, or all but a block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.filters import TranslationInvariant
from harness.attacks.losses import Logit
from harness.attacks.parts import Batch, part, require
from harness.attacks.registry import preset
from harness.attacks.transforms import DiverseInput


@part("transforms", "maskblock")
@dataclass(frozen=True)
class MaskBlock:
    """One copy for each block of a `blocks` x `blocks` grid, with that block black; `copies` is blocks^2.

    Fan et al., "MaskBlock: Transferable Adversarial Examples with Bayes Approach", arXiv 2208.06538, Sec. 3 (blocks of 56 of
    224 pixels: 4 x 4). Blocks follow the image's size; what the grid does not divide belongs to the last row and column,
    where the code leaves it out.
    """

    blocks: int = 4
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.blocks >= 1, "blocks of maskblock is at least 1", self.blocks)

    @property
    def copies(self) -> int:
        """One for each block."""
        return self.blocks**2

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the images without block number `copy`."""
        return x * (1 - block_mask(x, self.blocks, torch.full((len(x),), copy, device=x.device)))


def block_mask(x: Tensor, blocks: int, number: Tensor) -> Tensor:
    """Return 1 within block `number` (N,) of a blocks x blocks grid, else 0, (N, 1, H, W)."""

    def inside(size: int, which: Tensor) -> Tensor:
        of = (torch.arange(size, device=x.device) // max(1, size // blocks)).clamp(max=blocks - 1)
        return of[None, :] == which[:, None]

    rows, columns = inside(x.shape[2], number // blocks), inside(x.shape[3], number % blocks)
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(x)


@part("transforms", "everywhere")
@dataclass(frozen=True)
class Everywhere:
    """The image, and `regions` copies of which only one block of a `blocks` x `blocks` grid is left, blocks without repetition.

    Outside its block a copy shows the mean of each channel. Zeng et al., "Everywhere Attack: Attacking Locally and Globally
    to Boost Targeted Transferability", AAAI 2025, Sec. 3.2; public code draws 4 of 3 x 3 blocks anew in each iteration. The
    mean is the clean image's own, where the code takes ImageNet's.
    """

    regions: int = 4
    blocks: int = 3
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(1 <= self.regions <= self.blocks**2, "regions of everywhere are blocks of its grid", self.regions)

    @property
    def copies(self) -> int:
        """The whole image and the regions."""
        return 1 + self.regions

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the whole images, or one block of each."""
        if copy == 0:
            batch.run.memory["everywhere"] = batch.rng.uniform((self.blocks**2,)).argsort(dim=1, stable=True)
            return x
        mask = block_mask(x, self.blocks, batch.run.memory["everywhere"][:, copy - 1])
        return x * mask + batch.x.mean((2, 3), keepdim=True) * (1 - mask)


@preset("maskblock", category="input augmentation", source="Fan et al., arXiv 2208.06538, 2022, Alg. 1")
def maskblock() -> Attack:
    """MIM over 16 copies with one block black each, steps of eps / 8 (2/255)."""
    return Attack(transforms=(MaskBlock(),), decay=1.0, step_size=0.125)


@preset("everywhere", category="input augmentation", source="Zeng et al., AAAI 2025, Sec. 3.3")
def everywhere() -> Attack:
    """Logit loss towards a random other label, over the image and 4 of its 9 blocks, DI (0.7, shrinking), TI (5 x 5), MIM.

    300 steps of eps / 10. Public code adds feature mixing (CFM), an attack of its own, which is left out.
    """
    return Attack(
        loss=Logit(),
        transforms=(Everywhere(), DiverseInput(low=195 / 224, high=1.0, prob=0.7)),
        filters=(TranslationInvariant(size=5),),
        decay=1.0,
        steps=300,
        step_size=0.1,
        target="random",
    )
