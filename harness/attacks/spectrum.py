"""Input augmentation in the frequency domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from harness.attacks.autograd import straight_through
from harness.attacks.parts import Batch, part, require


def dct_matrix(size: int, like: Tensor) -> Tensor:
    """Return the orthonormal DCT-II matrix D (size, size): D @ v is the transform of v, D.T @ c its inverse."""
    return _dct_matrix(size, like.device, like.dtype)


@lru_cache(maxsize=64)
def _dct_matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    k = torch.arange(size, dtype=torch.float64)  # on the CPU: cosines differ between devices
    matrix = torch.cos(math.pi / size * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device=device, dtype=dtype)


def dct2(x: Tensor) -> Tensor:
    """Return the two-dimensional DCT-II over the last two axes, orthonormal."""
    return dct_matrix(x.shape[-2], x) @ x @ dct_matrix(x.shape[-1], x).T


def idct2(coefficients: Tensor) -> Tensor:
    """Return the inverse of `dct2`."""
    rows, columns = dct_matrix(coefficients.shape[-2], coefficients), dct_matrix(coefficients.shape[-1], coefficients)
    return rows.T @ coefficients @ columns


@part("transforms", "ssa")
@dataclass(frozen=True)
class Spectrum:
    """Copies IDCT(DCT(x + xi) * M), xi ~ N(0, sigma^2), M ~ U(1 - rho, 1 + rho) per coefficient, per channel.

    Long et al., "Frequency Domain Model Augmentation for Adversarial Attack", ECCV 2022, Eq. 7 (20 copies, rho 0.5, sigma
    = eps; None here means eps). As in the authors' code the gradient is taken at the transformed image; `through` follows
    it back through the transform instead.
    """

    copies: int = 20
    rho: float = 0.5
    sigma: float | None = None
    through: bool = False
    joint: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.copies >= 1, "copies of ssa is at least 1", self.copies)
        require(self.rho >= 0, "rho of ssa is not negative", self.rho)

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return x with noise and a scaled spectrum."""
        noise = batch.rng.normal(x.shape[1:], batch.eps if self.sigma is None else self.sigma).to(x)
        mask = batch.rng.uniform(x.shape[1:], 1 - self.rho, 1 + self.rho).to(x)
        transformed = idct2(dct2(x + noise) * mask)
        return transformed if self.through else straight_through(x, transformed.detach())
