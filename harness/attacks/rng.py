"""Randomness that belongs to an image, not to the batch it travels in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _seed_of(*parts: object) -> int:
    """Return 63 bits that depend on every part; unlike `hash`, the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class Rng:
    """One generator per image, seeded by (seed, image index).

    What an image draws depends on its index in the suite and on what was drawn for it before, never on its batch-mates,
    the batch size or global state. Every method returns (N, *shape) float32 (or int64) on `device`.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu", stream: str = "") -> None:
        self.seed = seed
        self.indices = tuple(int(index) for index in indices)
        self.device = torch.device(device)
        self.stream = stream
        self._generators = [torch.Generator(self.device).manual_seed(each) for each in self.seeds]

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per image, for code that can only be seeded by a number."""
        return tuple(_seed_of(self.seed, index, self.stream) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def each(self) -> list[Rng]:
        """Return a generator for each image by itself, set at its beginning."""
        return [Rng(self.seed, [index], self.device, self.stream) for index in self.indices]

    def fresh(self, stream: str = "") -> Rng:
        """Return a generator set at its beginning; another `stream` gives independent draws."""
        return Rng(self.seed, self.indices, self.device, self.stream + stream)

    def _draw(
        self, shape: Sequence[int], dtype: torch.dtype, fill: Callable[[Tensor, torch.Generator], object]
    ) -> Tensor:
        out = torch.empty((len(self), *shape), dtype=dtype, device=self.device)
        for row, generator in zip(out, self._generators, strict=True):
            fill(row, generator)
        return out

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform on [low, high)."""
        return self._draw(shape, torch.float32, lambda row, generator: row.uniform_(low, high, generator=generator))

    def normal(self, shape: Sequence[int], std: float = 1.0) -> Tensor:
        """Gaussian of mean 0."""
        return self._draw(shape, torch.float32, lambda row, generator: row.normal_(0.0, std, generator=generator))

    def bernoulli(self, shape: Sequence[int], p: float) -> Tensor:
        """1 with probability p, else 0, as float."""
        return (self.uniform(shape) < p).float()

    def integers(self, shape: Sequence[int], low: int, high: int) -> Tensor:
        """Uniform integers of [low, high)."""
        return self._draw(shape, torch.int64, lambda row, generator: row.random_(low, high, generator=generator))
