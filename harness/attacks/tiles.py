"""Input augmentation tile by tile: shuffle, rotate, or transform each tile (the papers say block) in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.parts import Batch, part, require
from harness.attacks.spectrum import dct2, idct2


@part("transforms", "bsr")
@dataclass(frozen=True)
class BlockShuffle:
    """Copies in which the blocks of a `blocks` x `blocks` grid are shuffled and each one rotated about its centre.

    Block sides are random; rows of blocks are permuted, and columns by one permutation for all rows; angles are uniform
    in [-degrees, degrees], bilinear, black outside the block. Wang et al., "Boosting Adversarial Transferability by Block
    Shuffle and Rotation", CVPR 2024, Sec. 3.3 and official code (20 copies, 2 x 2 blocks, 24 degrees). The code draws
    angles from a truncated normal of 0.2 rad instead, that is up to 23 degrees.
    """

    copies: int = 20
    blocks: int = 2
    degrees: float = 24.0
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.copies >= 1 and self.blocks >= 1, "copies and blocks of bsr are at least 1", (self.copies, self.blocks)
        )

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the shuffled images."""
        n, k = len(x), self.blocks
        lengths = batch.rng.uniform((2, k))
        order = batch.rng.uniform((2, k)).argsort(dim=-1, stable=True)
        angles = (batch.rng.uniform((k, k), -1.0, 1.0) * math.radians(self.degrees)).double()
        row, top, height = _blocks_of(x.shape[2], lengths[:, 0], order[:, 0])
        column, left, width = _blocks_of(x.shape[3], lengths[:, 1], order[:, 1])
        image = torch.arange(n, device=x.device)[:, None, None]
        angle = angles[image, row[:, :, None], column[:, None, :]]
        # pixel offsets from the centre of the block that lands here, turned back by its angle
        dy = (torch.arange(x.shape[2], device=x.device) - _start(row) - (height - 1) / 2)[:, :, None]
        dx = (torch.arange(x.shape[3], device=x.device) - _start(column) - (width - 1) / 2)[:, None, :]
        y = dy * angle.cos() - dx * angle.sin() + ((height - 1) / 2)[:, :, None]
        z = dy * angle.sin() + dx * angle.cos() + ((width - 1) / 2)[:, None, :]
        return sample(x, y, z, (top, height), (left, width))


def _blocks_of(size: int, weights: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split an axis by weights (N, k) and lay the pieces out in `order`.

    Returns, for each position of the axis (N, size): the number of the slot it lies in, and the start and the length of
    the piece that is shown there.
    """
    share = weights.double()
    lengths = (share / share.sum(1, keepdim=True) * size).round().long()
    rest = size - lengths.sum(1, keepdim=True)
    lengths = lengths.scatter_add(1, share.argmax(1, keepdim=True), rest)
    starts = lengths.cumsum(1) - lengths
    shown = lengths.gather(1, order)
    position = torch.arange(size, device=weights.device)[None, :].expand(len(weights), -1).contiguous()
    slot = torch.searchsorted(shown.cumsum(1).contiguous(), position, right=True)
    piece = order.gather(1, slot)
    return slot, starts.gather(1, piece), lengths.gather(1, piece)


def _start(slot: Tensor) -> Tensor:
    """Return where the slot of each position begins (N, size), from the slots' numbers, which never fall."""
    return (slot[:, :, None] > slot[:, None, :]).sum(-1)


def sample(x: Tensor, y: Tensor, z: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """Read x bilinearly at (top + y, left + z) within blocks, 0 outside them: a gather, deterministic on every device."""
    (top, height), (left, width) = rows, columns
    n, c, h, w = x.shape
    flat, total = x.reshape(n, c, h * w), torch.zeros_like(x)
    y0, z0 = y.floor(), z.floor()
    for i in (0, 1):
        for j in (0, 1):
            r, s = y0 + i, z0 + j
            weight = (1 - (y - r).abs()).clamp(min=0) * (1 - (z - s).abs()).clamp(min=0)
            inside = (r >= 0) & (r < height[:, :, None]) & (s >= 0) & (s < width[:, None, :])
            index = (top[:, :, None] + r.long()) * w + left[:, None, :] + s.long()
            index = torch.where(inside, index, torch.zeros_like(index)).reshape(n, 1, h * w).expand(-1, c, -1)
            total = total + flat.gather(2, index).reshape(n, c, h, w) * (weight * inside).to(x)[:, None]
    return total


@part("transforms", "sia")
@dataclass(frozen=True)
class StructureInvariant:
    """Copies in which each block of a `blocks` x `blocks` grid goes through a random one of ten transformations.

    Shifts, flips, a half turn, scaling by U(0, 1), noise of 16/255, a low-pass DCT, resizing by 0.8 and back, dropped
    channels; boundaries are random. Wang et al., "Structure Invariant Transformation for better Adversarial
    Transferability", ICCV 2023, Sec. 3.3 and official code (20 copies, 3 x 3 blocks). The low-pass keeps a block of fewer
    than three pixels a side, which the code turns black.
    """

    copies: int = 20
    blocks: int = 3
    joint: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.copies >= 1 and self.blocks >= 1, "copies and blocks of sia are at least 1", (self.copies, self.blocks)
        )

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the transformed images."""
        return tile_by_tile(x, batch, self.blocks, _OPERATIONS)


def tile_by_tile(x: Tensor, batch: Batch, k: int, operations: Sequence[Operation]) -> Tensor:
    """Return x with each block of a random k x k grid gone through a random one of the operations."""
    require(min(x.shape[2:]) >= k, f"{k} x {k} blocks need images of at least that many pixels", tuple(x.shape))
    rows = _bounds(batch.rng.uniform((x.shape[2] - 1,)), x.shape[2], k)
    columns = _bounds(batch.rng.uniform((x.shape[3] - 1,)), x.shape[3], k)
    choices = batch.rng.integers((k, k), 0, len(operations)).tolist()
    numbers = batch.rng.uniform((k, k)).tolist()
    noise = batch.rng.uniform(x.shape[1:], -16 / 255, 16 / 255).to(x)
    kept = (batch.rng.uniform((k, k, x.shape[1])) >= 0.1).to(x) / 0.9
    images = []
    for n in range(len(x)):
        strips = []
        for i in range(k):
            strip = []
            for j in range(k):
                block = (slice(n, n + 1), slice(None), slice(*rows[n][i : i + 2]), slice(*columns[n][j : j + 2]))
                draw = _Draw(numbers[n][i][j], noise[block], kept[n, i, j].reshape(1, -1, 1, 1))
                strip.append(operations[choices[n][i][j]](x[block], draw))
            strips.append(torch.cat(strip, 3))
        images.append(torch.cat(strips, 2))
    return torch.cat(images)


def _bounds(scores: Tensor, size: int, k: int) -> list[list[int]]:
    """Return for each image 0, k - 1 distinct inner boundaries in order, and the size."""
    inner = (scores.argsort(dim=1, stable=True)[:, : k - 1] + 1).sort(1).values.tolist()
    return [[0, *row, size] for row in inner]


@dataclass(frozen=True)
class _Draw:
    """What one block has drawn: a number in [0, 1), noise of its shape, and its channels' factors."""

    number: float
    noise: Tensor
    kept: Tensor


Operation = Callable[[Tensor, _Draw], Tensor]


def _resize(x: Tensor, _draw: _Draw) -> Tensor:
    h, w = x.shape[2:]
    small = F.interpolate(x, (int(h * 0.8) + 1, int(w * 0.8) + 1), mode="bilinear", align_corners=False)
    return F.interpolate(small, (h, w), mode="bilinear", align_corners=False).clamp(0, 1)


def _low_pass(x: Tensor, _draw: _Draw) -> Tensor:
    h, w = x.shape[2:]
    mask = torch.zeros_like(x)
    mask[:, :, : h - int(h * 0.4), : w - int(w * 0.4)] = 1
    return idct2(dct2(x) * mask)


_OPERATIONS: tuple[Operation, ...] = (
    _resize,
    lambda x, draw: x.roll(int(draw.number * x.shape[2]), 2),
    lambda x, draw: x.roll(int(draw.number * x.shape[3]), 3),
    lambda x, draw: x.flip(2),
    lambda x, draw: x.flip(3),
    lambda x, draw: x.flip(2, 3),
    lambda x, draw: x * draw.number,
    lambda x, draw: (x + draw.noise).clamp(0, 1),
    _low_pass,
    lambda x, draw: x * draw.kept,
)

LOCAL = _OPERATIONS[1:8]
"""Those that IDAA uses: shifts, flips, a half turn, scaling, noise."""
