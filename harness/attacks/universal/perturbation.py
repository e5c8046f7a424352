"""One perturbation, or one patch, for all images of a suite."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.gradients import CopyGradient
from harness.attacks.losses import CrossEntropy
from harness.attacks.parts import Batch, Run, Step, part, require
from harness.attacks.registry import preset
from zoo.errors import UserError


def _shared(step: Step) -> Tensor:
    """Return the perturbation so far, (1, C, H, W), 0 at first."""
    v: Tensor = step.batch.run.memory.get("universal", torch.zeros_like(step.adv[:1]))
    return v


@part("gradient", "universal")
@dataclass(frozen=True)
class OverImages:
    """g = mean over `images` of the suite of grad CE(f(x_i + v)), images drawn anew in each iteration, alike for all attacked.

    Shafahi et al., "Universal Adversarial Training", AAAI 2020, Alg. 2 (stochastic gradient sign; their batches are larger,
    and they clip the loss). The perturbation has seen the suite's own images, as the field's universal perturbations have
    seen a sample of theirs.
    """

    images: int = 16

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.images >= 1, "images of universal is at least 1", self.images)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient, the same for every image."""
        batch = step.batch
        if batch.pool is None:
            raise UserError("a universal perturbation is made on images of the suite: pass pool=Images(images, labels)")
        if batch.target is not None:
            raise UserError("universal perturbations are untargeted here; leave the target out")
        x, y = batch.pool.some(batch.rng.shared(f"universal {batch.run.t}"), self.images)
        rng = batch.rng.shared(f"copies {batch.run.t}", self.images)
        sub = replace(batch, x=x.to(batch.x), y=y.to(batch.y.device), rng=rng, run=Run())
        transforms = step.gradient.transforms if isinstance(step.gradient, CopyGradient) else ()
        gradient = CopyGradient(sub, CrossEntropy().prepare(sub), transforms)
        free = torch.ones_like(sub.x[:1, :1]) if "region" not in batch.run.memory else batch.run.memory["region"]
        g = gradient((sub.x + _shared(step) * free).clamp(0, 1)).mean(0, keepdim=True)
        return g.expand_as(step.adv)

    def evaluations(self) -> int:
        """Return the images: passes for each batch, however many images it holds."""
        return self.images


@part("update", "shared")
@dataclass(frozen=True)
class SharedStep:
    """v = clip(v + alpha * sign(m), -eps, eps), x = x_0 + v: one v for all images."""

    def __call__(self, step: Step, m: Tensor, last: Tensor) -> Tensor:
        """Return the moved images."""
        v = (_shared(step) + step.alpha * m[:1].sign()).clamp(-step.batch.eps, step.batch.eps)
        step.batch.run.memory["universal"] = v
        return step.batch.x + v

    def slope(self, step: Step) -> Tensor | None:
        """Return None: moving v moves the image alike."""
        return None


@part("region", "square")
@dataclass(frozen=True)
class Square:
    """A square of `share` of the image's pixels, its lower right corner `margin` of the side away from the image's."""

    share: float = 0.05
    margin: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 < self.share < 1, "share of square is a part of the image", self.share)
        require(0 <= self.margin < 1, "margin of square is a part of the image's side", self.margin)

    def __call__(self, batch: Batch) -> Tensor:
        """Return 1 within the square, (N, 1, H, W)."""
        n, _, h, w = batch.x.shape
        side = max(1, int(math.sqrt(self.share * h * w)))
        bottom, right = h - int(self.margin * h), w - int(self.margin * w)
        mask = torch.zeros(n, 1, h, w).to(batch.x)
        mask[:, :, max(0, bottom - side) : bottom, max(0, right - side) : right] = 1
        batch.run.memory["region"] = mask[:1]
        return mask


@preset("universal", category="universal", source="Shafahi et al., AAAI 2020, Alg. 2")
def universal() -> Attack:
    """One perturbation for all images of the suite: MIM on v, over 16 of its images in each step, drawn by the seed alone.

    Its passes are counted for a batch, whatever its size; each block of a run makes the same perturbation again.
    """
    return Attack(gradient=OverImages(), update=SharedStep(), decay=1.0)


@preset(
    "patch", category="universal", source="Brown et al., NeurIPS 2017 workshop, Sec. 2, untargeted and at a fixed place"
)
def patch() -> Attack:
    """One patch for all images: as `universal`, within a square of 5 % of the pixels.

    Under a suite's budget of few levels it is a faint one; a suite with `levels: 255` and `patch: 0.05` allows any colours
    there. Brown et al. place, turn and scale their patch at random; transforms can be added.
    """
    return Attack(gradient=OverImages(), update=SharedStep(), region=Square(), decay=1.0)
