"""Random views of training images, drawn for a whole batch from one generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from zoo.errors import UserError


def augment(images: Tensor, kind: str, generator: Generator, size: int) -> Tensor:
    """Return float images in [0, 1] of the batch (N, C, H, W) uint8, changed as `kind` says.

    none: as they are. shift1: moved by up to one pixel each way, black moving in. crop-flip: padded by four black pixels,
    cropped at random, mirrored half the time (CIFAR). resize-crop-flip: shorter side to 256/224 of `size`, cropped at
    random to `size`, mirrored half the time (ImageNet, as the paper fine-tunes).
    """
    x = images.float() / 255
    if kind == "none":
        return x
    if kind == "shift1":
        return _crop(F.pad(x, (1, 1, 1, 1)), x.shape[-2], x.shape[-1], generator)
    if kind == "crop-flip":
        return _flip(_crop(F.pad(x, (4, 4, 4, 4)), x.shape[-2], x.shape[-1], generator), generator)
    if kind == "resize-crop-flip":
        scale = round(size * 256 / 224) / min(x.shape[-2:])
        sides = [max(size, round(side * scale)) for side in x.shape[-2:]]
        x = F.interpolate(x, size=sides, mode="bilinear", align_corners=False, antialias=True)
        return _flip(_crop(x, size, size, generator), generator)
    raise UserError(f"unknown augmentation {kind!r}; known: none, shift1, crop-flip, resize-crop-flip")


def _crop(x: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Cut a window out of each image, at a place of its own."""
    count = len(x)
    top = torch.randint(x.shape[-2] - height + 1, (count, 1), generator=generator)
    left = torch.randint(x.shape[-1] - width + 1, (count, 1), generator=generator)
    rows = (top + torch.arange(height)).to(x.device)[:, None, :, None]
    columns = (left + torch.arange(width)).to(x.device)[:, None, None, :]
    image = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[image, channel, rows, columns]


def _flip(x: Tensor, generator: Generator) -> Tensor:
    """Mirror each image with probability one half."""
    mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)
