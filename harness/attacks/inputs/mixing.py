"""US-MM and IDAA: copies that are scaled and masked by other images, or patched from one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.autograd import straight_through
from harness.attacks.parts import Batch, Step, part, require
from harness.attacks.registry import preset
from harness.attacks.tiles import LOCAL, tile_by_tile
from zoo.errors import UserError


@part("transforms", "usmm")
@dataclass(frozen=True)
class ScaleAndMixMask:
    """Copies clip(s_i * x * ((1 - r) + 2 r x'), 0, 1), x' of another label; scales s_i evenly spaced in [low, high].

    Wang et al., "Boost Adversarial Transferability by Uniform Scale and Mix Mask Method", arXiv 2311.12051, Eqs. 5-8
    (5 scales of 0.1 to 0.75, 3 mixtures, r 0.5). The gradient is taken at the copies, as in public code. x' comes from the
    suite's images by the image's own seed, anew for each copy.
    """

    scales: int = 5
    mixtures: int = 3
    low: float = 0.1
    high: float = 0.75
    mix: float = 0.5
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.scales >= 1 and self.mixtures >= 1,
            "scales and mixtures of usmm are at least 1",
            (self.scales, self.mixtures),
        )

    @property
    def copies(self) -> int:
        """Scales times mixtures."""
        return self.scales * self.mixtures

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the scaled and masked images."""
        if batch.pool is None:
            raise UserError("usmm masks by other images of the suite: pass pool=Images(images, labels)")
        step = (self.high - self.low) / max(1, self.scales - 1)
        other = batch.pool.draw(batch.rng, batch.y).to(x)
        mixed = x * (self.low + step * (copy % self.scales)) * ((1 - self.mix) + 2 * self.mix * other)
        return straight_through(x, mixed.clamp(0, 1).detach())


@part("transforms", "local-mix")
@dataclass(frozen=True)
class LocalMix:
    """Copies transformed block by block, a crop of a second such copy pasted into each at a random place.

    Liu et al., "Boosting Adversarial Transferability via Local Mixup and Adaptive Step Size" (IDAA): 3 x 3 random blocks,
    each shifted, flipped, turned, scaled or noised; crops of 0.7 of each side; 20 copies, as public code runs it.
    """

    copies: int = 20
    blocks: int = 3
    crop: float = 0.7
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.copies >= 1, "copies of local-mix is at least 1", self.copies)
        require(0 < self.crop < 1, "crop of local-mix is a share of the side below 1", self.crop)

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the mixed images."""
        first = tile_by_tile(x, batch, self.blocks, LOCAL)
        second = tile_by_tile(x, batch, self.blocks, LOCAL)
        h, w = int(x.shape[2] * self.crop), int(x.shape[3] * self.crop)
        room = torch.tensor([x.shape[2] - h, x.shape[3] - w] * 2, device=x.device)
        places = (batch.rng.uniform((4,)).double() * room).long().tolist()
        pasted = []
        for n, (top, left, row, column) in enumerate(places):
            image = first[n].clone()
            image[:, row : row + h, column : column + w] = second[n, :, top : top + h, left : left + w]
            pasted.append(image)
        return torch.stack(pasted)


@part("update", "tanh")
@dataclass(frozen=True)
class TanhStep:
    """w = w + rate * sign(m), x = low + (high - low) * (tanh(w) + 1) / 2: an image that cannot leave the ball.

    m gathers gradients with respect to w. IDAA (see `LocalMix`; rate 1). The first gradient is taken at the clean image,
    which is x(w = 0) but for pixels within eps of black or white.
    """

    rate: float = 1.0

    def __call__(self, step: Step, m: Tensor, last: Tensor) -> Tensor:
        """Return the moved image."""
        w: Tensor = self._at(step) + self.rate * m.sign()
        step.batch.run.memory["tanh"] = w
        return step.low + (step.high - step.low) * (w.tanh() + 1) / 2

    def slope(self, step: Step) -> Tensor | None:
        """Return dx / dw."""
        return (step.high - step.low) / 2 * (1 - self._at(step).tanh().square())

    def _at(self, step: Step) -> Tensor:
        w: Tensor = step.batch.run.memory.get("tanh", torch.zeros_like(step.adv))
        return w


@preset("usmm", category="input augmentation", source="Wang et al., arXiv 2311.12051, 2023, Alg. 1")
def usmm() -> Attack:
    """MIM over 3 mix masks at each of 5 scales."""
    return Attack(transforms=(ScaleAndMixMask(),), decay=1.0)


@preset("idaa", category="input augmentation", source="Liu et al., AAAI 2024, as public code runs it")
def idaa() -> Attack:
    """Momentum 1.0 on a tanh parameter moved by 1, over 20 local mixtures. The authors' eps is 0.07; the suite's is used."""
    return Attack(transforms=(LocalMix(),), update=TanhStep(), decay=1.0)
