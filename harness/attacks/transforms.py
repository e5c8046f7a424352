"""Input augmentation of the whole image: diverse sizes, scales and mixtures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from harness.attacks.autograd import scale_gradient
from harness.attacks.parts import Batch, part, require
from zoo.errors import UserError


@part("transforms", "di")
@dataclass(frozen=True)
class DiverseInput:
    """With probability `prob`, resize to a random size, pad with black to a canvas, and resize that back.

    The side s is drawn from [round(low * S), round(high * S)), the canvas is the upper bound, and the place on it is
    uniform; S is the image's side. With high = 1 the image shrinks and the canvas is the image. Each image of each copy
    draws anew. Xie et al., "Improving Transferability of Adversarial Examples with Input Diversity", CVPR 2019, Sec. 3.2:
    299 to 330, nearest neighbour, fed to the network at 330. Wang and He 2021, and QAA: 299 to 331, resized back to 299.
    Sizes follow the image: at 32 pixels sides of 32 to 34 on a canvas of 35, where QAA's released code for CIFAR-10 has 32
    or 33 on 34 (high = 34 / 32). Padding is black as in all PyTorch code; the TensorFlow code, on [-1, 1], pads with grey.
    """

    low: float = 1.0
    high: float = 331 / 299
    prob: float = 0.5
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    copies = 1
    joint = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 < self.low <= self.high, "low and high of di satisfy 0 < low <= high", (self.low, self.high))
        require(0 <= self.prob <= 1, "prob of di is a probability", self.prob)
        require(
            self.interpolation in ("nearest", "bilinear"),
            "interpolation of di is nearest or bilinear",
            self.interpolation,
        )

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the transformed images, of the same shape."""
        side = max(x.shape[2:])
        low = max(1, int(side * self.low + 0.5))
        canvas = max(int(side * self.high + 0.5), low + 1)
        size, top, left, chance = batch.rng.uniform((4,)).unbind(1)
        sides = low + (size.double() * (canvas - low)).long()
        height, width = x.shape[2:]
        if height == width:  # both axes in one go: their matrices are many operations on little data
            both = self._matrix(side, side, canvas, sides.repeat(2), torch.cat([top, left]), x)
            rows, columns = both.chunk(2)
        else:
            rows = self._matrix(height, side, canvas, sides, top, x)
            columns = self._matrix(width, side, canvas, sides, left, x)
        # resizing is linear along each axis, so it is two small products, exact in both directions on every device
        moved = rows[:, None] @ x @ columns[:, None].transpose(-1, -2)
        return torch.where((chance < self.prob)[:, None, None, None], moved, x)

    def _matrix(self, size: int, side: int, canvas: int, sides: Tensor, place: Tensor, like: Tensor) -> Tensor:
        """Return (N, size, size): resize one axis, place it on the canvas, resize the canvas to the axis' size."""
        if size != side:  # the shorter axis keeps its proportion
            canvas, sides = max(1, canvas * size // side), (sides * size // side).clamp(min=1)
        offset = (place.double() * (canvas - sides)).long()
        cell = torch.arange(canvas, device=like.device)[None, :] - offset[:, None]
        inside = (cell >= 0) & (cell < sides[:, None])
        nearest = self.interpolation == "nearest"
        grow = _taps(cell, size, sides[:, None], like, nearest) * inside[..., None]
        return grow if canvas == size else _resizing(canvas, size, nearest, like.device, like.dtype) @ grow


def _taps(cell: Tensor, source: int, target: Tensor | int, like: Tensor, nearest: bool) -> Tensor:
    """Return the weights (N, cells, source) of resizing `source` points to `target` points, at the given cells."""
    if nearest:
        position = torch.div(cell * source, target, rounding_mode="floor").to(like)
    else:
        position = ((cell.double() + 0.5) * source / target - 0.5).clamp(0, source - 1).to(like)
    points = torch.arange(source, device=like.device, dtype=like.dtype)
    taps: Tensor = (1 - (position[..., None] - points).abs()).clamp(min=0)
    return taps


@lru_cache(maxsize=64)
def _resizing(source: int, target: int, nearest: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (target, source) that resizes an axis."""
    like = torch.empty(0, dtype=dtype)
    return _taps(torch.arange(target)[None, :], source, target, like, nearest)[0].to(device)


@part("transforms", "si")
@dataclass(frozen=True)
class ScaleInvariant:
    """Copies x / 2^i, i = 0 ... copies - 1; differentiated through the division, as the equation says.

    Lin et al., "Nesterov Accelerated Gradient and Scale Invariance for Adversarial Attacks", ICLR 2020, Eq. 8 (5 copies).
    Copies darken, as in all PyTorch code; the TensorFlow code, on [-1, 1], moves them to grey. They are one forward pass
    (`joint`) as in the released code of QAA.
    """

    copies: int = 5
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.copies >= 1, "copies of si is at least 1", self.copies)

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return x / 2^copy."""
        return x * 0.5**copy


@part("transforms", "admix")
@dataclass(frozen=True)
class Admix:
    """Copies x + portion * x'_j, with images x'_j of other labels, drawn anew for each copy and detached.

    Wang et al., "Admix: Enhancing the Transferability of Adversarial Attacks", ICCV 2021, Eq. 5 (m2 = 3, portion 0.2);
    followed by `ScaleInvariant` it is the whole attack (m1 = 5). x' comes from the suite's images by the image's own seed;
    the authors draw from the batch, where it may happen to be the image itself. `weights`, one per copy, scale the copies'
    gradients, for the released code of QAA, which adds up running sums.
    """

    portion: float = 0.2
    copies: int = 3
    weights: tuple[float, ...] | None = None
    joint: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.copies >= 1, "copies of admix is at least 1", self.copies)
        require(self.portion >= 0, "portion of admix is not negative", self.portion)
        require(
            self.weights is None or len(self.weights) == self.copies, f"admix needs {self.copies} weights", self.weights
        )

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return x mixed with other images."""
        if batch.pool is None:
            raise UserError("admix mixes in other images of the suite: pass pool=Images(images, labels)")
        other = batch.pool.draw(batch.rng, batch.y).to(x)
        if other.shape != x.shape:
            raise UserError(
                f"admix: the pool's images are {tuple(other.shape[1:])}, the attacked ones {tuple(x.shape[1:])}"
            )
        mixed = x + self.portion * other
        return mixed if self.weights is None else scale_gradient(mixed, self.weights[copy])
