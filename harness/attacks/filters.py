"""Linear filters of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.parts import part, require


@part("filters", "ti")
@dataclass(frozen=True)
class TranslationInvariant:
    """Smooth each channel of the gradient by a Gaussian kernel of `size` x `size`, zeros outside the image.

    The kernel is the normal density at `size` points evenly spaced in [-sigmas, sigmas], normalised to sum 1; a standard
    deviation is (size - 1) / (2 * sigmas) pixels. Dong et al., "Evading Defenses to Transferable Adversarial Examples by
    Translation-Invariant Attacks", CVPR 2019, Sec. 3.3 (15 x 15); CIM (Wang and He 2021, and QAA) uses 7 x 7.
    """

    size: int = 15
    sigmas: float = 3.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.size >= 1 and self.size % 2 == 1, "size of ti is the odd side of its kernel", self.size)
        require(self.sigmas > 0, "sigmas of ti is positive", self.sigmas)

    def kernel(self, like: Tensor) -> Tensor:
        """Return the kernel of one axis, (size,); the kernel of the plane is its outer product with itself."""
        return _gaussian(self.size, self.sigmas, like.device, like.dtype)

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the smoothed gradient (N, C, H, W)."""
        n, c, h, w = gradient.shape
        kernel, pad = self.kernel(gradient), self.size // 2
        # two passes of one axis each cost 2 * size instead of size^2 products per pixel
        planes = F.conv2d(gradient.reshape(n * c, 1, h, w), kernel.reshape(1, 1, -1, 1), padding=(pad, 0))
        return F.conv2d(planes, kernel.reshape(1, 1, 1, -1), padding=(0, pad)).reshape(n, c, h, w)


@lru_cache(maxsize=64)
def _gaussian(size: int, sigmas: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the normal density at points evenly spaced in [-sigmas, sigmas], normalised to sum 1."""
    points = torch.linspace(-sigmas, sigmas, size, dtype=torch.float64)
    if size == 1:
        points = torch.zeros(1, dtype=torch.float64)
    density = torch.exp(-points.square() / 2)
    return (density / density.sum()).to(device=device, dtype=dtype)
