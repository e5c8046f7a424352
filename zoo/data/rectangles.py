"""Training images of any shape, each with a shorter side of one length: random crops are cut out of the whole rectangle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rectangles:
    """Pictures (3, H, W) uint8 one after another in a flat tensor, which may be mapped from a file."""

    flat: Tensor
    """(bytes,) uint8."""
    starts: Tensor
    """(N,) int64, where each picture begins."""
    sides: Tensor
    """(N, 2) int64, height and width."""

    @staticmethod
    def of(flat: Tensor, sides: Tensor) -> Rectangles:
        """Return the pictures of these sides, which lie in `flat` without gaps.

        Raises:
            ValueError: they do not fill it.
        """
        sizes = 3 * sides.prod(1)
        if int(sizes.sum()) != len(flat):
            raise ValueError(f"pictures of {int(sizes.sum())} bytes in all do not fill {len(flat)} bytes")
        return Rectangles(flat, sizes.cumsum(0) - sizes, sides)

    def chosen(self, index: Tensor) -> Rectangles:
        """Return some of the pictures; their bytes are not copied."""
        return Rectangles(self.flat, self.starts[index], self.sides[index])

    def picture(self, place: int) -> Tensor:
        """Return one picture (3, H, W); a view."""
        height, width = self.sides[place].tolist()
        return self.flat[int(self.starts[place]) :][: 3 * height * width].view(3, height, width)


@dataclass(frozen=True)
class Photographs:
    """Pictures and labels of one split whose pictures differ in shape; a data set to train on.

    labels: (N,) int64, 0-based. ids: one name per picture, unique.
    """

    name: str
    split: str
    pictures: Rectangles = field(repr=False)
    labels: Tensor = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or len(self.labels) != len(self) or len(self.ids) != len(self):
            raise ValueError("labels must be int64 (N,), with one id per picture")

    def __len__(self) -> int:
        return len(self.pictures.sides)

    def batch(self, index: Tensor) -> Rectangles:
        """Return the pictures of these places."""
        return self.pictures.chosen(index)

    @cached_property
    def digest(self) -> str:
        """sha256 over the sides, the pixels, the labels and the ids; computed once."""
        sha = hashlib.sha256(self.pictures.sides.numpy().astype("<i8").tobytes())
        for start in range(0, len(self.pictures.flat), 2**28):  # in pieces: a mapped file is larger than memory
            sha.update(self.pictures.flat[start : start + 2**28].numpy().data)
        sha.update(self.labels.numpy().astype("<i8").tobytes())
        sha.update("\n".join(self.ids).encode())
        return sha.hexdigest()
