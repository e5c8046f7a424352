"""MuMoDIG: integrated gradients along monotone paths, from the image and from diverse copies of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.inputs import geometry
from harness.attacks.parts import Batch, Step, part, require
from harness.attacks.registry import preset


@part("gradient", "mumodig")
@dataclass(frozen=True)
class DiverseIntegratedGradient:
    """g = sum_k grad L(b_k + position * (T_k(x) - b_k)) * (T_k(x) - b_k), b_k = Q(T_k(x)); T_0 is the identity.

    Q splits each channel's range into `regions` at random and shows each region at its lower bound, so that the path from b
    to the image never falls. T_1 ... T_copies are random: with probability 1/2 one of a shift along either axis, a flip along
    either, or a rotation by up to 45 degrees; otherwise resizing to U(1, 245/224) of the side on a black canvas, and back. Ren
    et al., "Improving Integrated Gradient-based Transferable Adversarial Examples by Refining the Integration Path", AAAI
    2025, Alg. 1 (6 copies, 2 regions, position 0.65, one base and one point on each path). As in the authors' code the
    gradient is that of x, while the path it is multiplied by is that of the copy.
    """

    copies: int = 6
    regions: int = 2
    position: float = 0.65

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.copies >= 0, "copies of mumodig is not negative", self.copies)
        require(self.regions >= 1, "regions of mumodig is at least 1", self.regions)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        total = torch.zeros_like(step.point)
        for copy in range(self.copies + 1):
            move = _diverse(step.batch, step.point) if copy else _identity
            with torch.no_grad():
                moved = move(step.point)
                base = self._lower(moved, step.batch)
            total += step.gradient(step.point, via=self._along(move, base)) * (moved - base)
        return total

    def _along(self, move: Callable[[Tensor], Tensor], base: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: base + self.position * (move(x) - base)

    def _lower(self, x: Tensor, batch: Batch) -> Tensor:
        """Return Q(x)."""
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        cuts = batch.rng.uniform((x.shape[1], self.regions - 1)).to(x).sort(-1).values[..., None, None]
        bounds = low[:, :, None] + cuts * (high - low)[:, :, None]  # (N, C, regions - 1, 1, 1), rising
        lower = low.expand_as(x)
        for r in range(self.regions - 1):
            lower = torch.where(x >= bounds[:, :, r], bounds[:, :, r], lower)
        return lower

    def evaluations(self) -> int:
        """Return one for the image and one for each copy."""
        return self.copies + 1


def _identity(x: Tensor) -> Tensor:
    return x


def _diverse(batch: Batch, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a random move of each image, the same at each call."""
    u = batch.rng.uniform((7,)).double()
    size = (x.shape[2], x.shape[3])
    kind = torch.where(u[:, 0] < 0.5, (u[:, 1] * 5).floor(), 5.0)
    by = (u[:, 2:4] * torch.tensor(size, device=x.device)).floor()
    angle = (u[:, 4] * 2 - 1) * math.radians(45)
    place = geometry.identity(x)
    place = geometry.rolled(place, size, torch.where(kind == 0, by[:, 0], 0.0), torch.where(kind == 1, by[:, 1], 0.0))
    place = geometry.flipped(place, size, kind == 2, kind == 3)
    place = geometry.rotated(place, size, torch.where(kind == 4, angle, 0.0))
    rate = 245 / 224
    padded = geometry.zoomed(place, size, torch.full_like(angle, rate), 1 + u[:, 4] * (rate - 1), u[:, 5:7])
    resized = (kind == 5)[:, None, None]
    where = (torch.where(resized, padded[0], place[0]), torch.where(resized, padded[1], place[1]))
    return lambda image: geometry.read(image, where)


@preset("mumodig", category="gradient stabilisation", source="Ren et al., AAAI 2025, Alg. 1")
def mumodig() -> Attack:
    """Decay 1.0, the image and 6 diverse copies, one point at 0.65 of each path."""
    return Attack(gradient=DiverseIntegratedGradient(), decay=1.0)
