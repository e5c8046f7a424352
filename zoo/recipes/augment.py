"""Random views of training images, drawn for a whole batch from one generator: first the numbers, then the pixels.

The numbers come from a CPU generator and are the same wherever the pixels are, so that a device can be handed the draws of a
whole epoch at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from zoo.data.rectangles import Rectangles
from zoo.errors import UserError

PADDING = {"shift1": 1, "crop-flip": 4}
"""Black pixels added on each side before the crop."""
KINDS = ("none", *PADDING, "resize-crop-flip")


class Draws(NamedTuple):
    """What chance decides for each image of a batch (N,): where the crop begins, and whether it is mirrored. Null: not drawn."""

    top: Tensor | None = None
    left: Tensor | None = None
    mirrored: Tensor | None = None


def augment(
    images: Tensor | Rectangles, kind: str, generator: Generator, size: int, device: torch.device | str | None = None
) -> Tensor:
    """Return float images in [0, 1] of a batch, changed as `kind` says, on `device` (by default where they are).

    none: as they are. shift1: moved by up to one pixel each way, black moving in. crop-flip: padded by four black pixels,
    cropped at random, mirrored half the time (CIFAR). resize-crop-flip: shorter side to 256/224 of `size`, cropped at
    random to `size`, mirrored half the time (ImageNet, as the paper fine-tunes); the only one for pictures of many shapes.

    Args:
        images: (N, C, H, W) uint8, or pictures of many shapes.
        kind: one of KINDS.
        generator: decides the draws, on the CPU.
        size: side of the images that a network takes.
        device: where the pixels are to be.

    Raises:
        UserError: there is no such kind, or it is none for pictures of many shapes.
    """
    if isinstance(images, Rectangles):
        return _cut(images, kind, generator, size, device)
    images = images if device is None else images.to(device)
    return view(images, kind, draw(len(images), images.shape[-2:], kind, generator, size), size)


def _cut(pictures: Rectangles, kind: str, generator: Generator, size: int, device: torch.device | str | None) -> Tensor:
    """Cut a random crop out of each picture's whole rectangle, and mirror half of them."""
    if kind != "resize-crop-flip":
        raise UserError(f"the training images differ in shape, which augment: {kind} cannot handle; use resize-crop-flip")
    count = len(pictures.sides)
    resized = [_resized((height, width), size) for height, width in pictures.sides.tolist()]
    rooms = torch.tensor(resized) - size + 1
    places = torch.randint(2**48, (count, 2), generator=generator) % rooms  # a bias of 2^-40: nothing
    mirrored = torch.rand(count, generator=generator) < 0.5
    crops = []
    for place, (sides, (top, left)) in enumerate(zip(resized, places.tolist(), strict=True)):
        x = pictures.picture(place)
        if list(x.shape[1:]) != sides:
            x = F.interpolate(x[None].float(), size=sides, mode="bilinear", align_corners=False, antialias=True)[0]
        crops.append(x[:, top : top + size, left : left + size])
    batch = torch.stack(crops)
    batch = (batch if device is None else batch.to(device)).float() / 255
    return _flip(batch, mirrored.to(batch.device))


def draw(count: int, sides: torch.Size | tuple[int, int], kind: str, generator: Generator, size: int) -> Draws:
    """Return the draws for `count` images of `sides` (height, width) pixels.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"unknown augmentation {kind!r}; known: {', '.join(KINDS)}")
    if kind == "none":
        return Draws()
    resized = kind == "resize-crop-flip"
    spare = [side - size for side in _resized(sides, size)] if resized else [2 * PADDING[kind]] * 2
    top, left = (torch.randint(room + 1, (count, 1), generator=generator)[:, 0] for room in spare)
    mirrored = None if kind == "shift1" else torch.rand(count, generator=generator) < 0.5
    return Draws(top, left, mirrored)


def view(images: Tensor, kind: str, draws: Draws, size: int) -> Tensor:
    """Return what the draws make of uint8 images (N, C, H, W): floats in [0, 1], on the images' device."""
    x = images.float() / 255
    height, width = x.shape[-2:]
    if kind == "none":
        return x
    if kind == "resize-crop-flip":
        x = F.interpolate(x, size=_resized((height, width), size), mode="bilinear", align_corners=False, antialias=True)
        height = width = size
    else:
        x = F.pad(x, (PADDING[kind],) * 4)
    assert draws.top is not None and draws.left is not None
    x = _crop(x, height, width, draws.top.to(x.device), draws.left.to(x.device))
    return x if draws.mirrored is None else _flip(x, draws.mirrored.to(x.device))


def _resized(sides: torch.Size | tuple[int, int], size: int) -> list[int]:
    """Return the sides after the shorter one was brought to 256/224 of `size`."""
    scale = round(size * 256 / 224) / min(sides)
    return [max(size, round(side * scale)) for side in sides]


def _crop(x: Tensor, height: int, width: int, top: Tensor, left: Tensor) -> Tensor:
    """Cut a window out of each image, at a place of its own."""
    rows = (top[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[image, channel, rows, columns]


def _flip(x: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images that are to be."""
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)
