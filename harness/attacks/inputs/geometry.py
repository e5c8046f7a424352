"""Where each pixel of a moved image is read: maps (y, x) of shape (N, H, W) in pixels, one for each image, and the reading."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.attacks.tiles import sample

Map = tuple[Tensor, Tensor]


def identity(x: Tensor) -> Map:
    """Return each pixel's own place."""
    n, _, h, w = x.shape
    rows = torch.arange(h, device=x.device, dtype=torch.float64)[None, :, None].expand(n, h, w)
    return rows, torch.arange(w, device=x.device, dtype=torch.float64)[None, None, :].expand(n, h, w)


def read(x: Tensor, where: Map) -> Tensor:
    """Read x (N, C, H, W) bilinearly at the places of the map; black outside the image. Differentiable in both."""
    n, _, h, w = x.shape
    zeros = torch.zeros(n, max(h, w), dtype=torch.int64, device=x.device)
    rows, columns = (zeros[:, :h], torch.full_like(zeros[:, :h], h)), (zeros[:, :w], torch.full_like(zeros[:, :w], w))
    return sample(x, where[0], where[1], rows, columns)


def _each(number: Tensor) -> Tensor:
    return number.double()[:, None, None]


def rolled(where: Map, size: tuple[int, int], down: Tensor, right: Tensor) -> Map:
    """Shift by whole pixels (N,) and let what leaves one side enter at the other."""
    return (where[0] - _each(down)) % size[0], (where[1] - _each(right)) % size[1]


def flipped(where: Map, size: tuple[int, int], vertical: Tensor, horizontal: Tensor) -> Map:
    """Mirror where the flags (N,) say so."""
    y = torch.where(vertical[:, None, None], size[0] - 1 - where[0], where[0])
    return y, torch.where(horizontal[:, None, None], size[1] - 1 - where[1], where[1])


def rotated(where: Map, size: tuple[int, int], radians: Tensor) -> Map:
    """Rotate about the centre, counter-clockwise, by angles (N,)."""
    dy, dx = where[0] - (size[0] - 1) / 2, where[1] - (size[1] - 1) / 2
    sin, cos = _each(radians).sin(), _each(radians).cos()
    return dy * cos + dx * sin + (size[0] - 1) / 2, dx * cos - dy * sin + (size[1] - 1) / 2


def zoomed(where: Map, size: tuple[int, int], canvas: Tensor, side: Tensor, place: Tensor) -> Map:
    """Resize to `side` (N,), lay that on a black `canvas` (N,) at `place` (N, 2) in [0, 1), resize the canvas back.

    canvas and side are relative to the image's size. The three steps are one map, read once.
    """
    maps = []
    for axis in (0, 1):
        offset = place[:, axis].double() * (canvas - side).double() * size[axis]
        cell = (where[axis] + 0.5) * _each(canvas) - _each(offset)
        maps.append(cell / _each(side) - 0.5)
    return maps[0], maps[1]
