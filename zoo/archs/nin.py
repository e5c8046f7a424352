"""Network in network (Lin et al., arXiv 1312.4400) for CIFAR-10, in full precision and in XNOR-Net's order of layers."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.archs.base import ZooNet, initialise

Widths = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int]]
CIFAR: Widths = ((192, 160, 96), (192, 192, 192), (192, 192))


MIN_GAIN = 0.01
"""The authors of XNOR-Net's NIN keep the gains of its norms at least this large."""


class DroppingConv2d(nn.Conv2d):
    """A convolution that drops a part of its input while it is trained, after whatever quantises that input."""

    def __init__(self, width_in: int, width: int, kernel: int, drop: float, **settings: Any) -> None:
        super().__init__(width_in, width, kernel, **settings)
        self.drop = drop

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H', W')."""
        return super().forward(F.dropout(input, self.drop, self.training))


class BoundedNorm2d(nn.BatchNorm2d):
    """A batch norm whose gains are brought back to MIN_GAIN before each training pass, so that no sign it feeds turns round."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if self.training:
            with torch.no_grad():
                self.weight.clamp_(min=MIN_GAIN)
        return super().forward(input)


class Unit(nn.Module):
    """One convolution: conv - bn - relu ("after"), or bn - [sign] - [dropout] - conv - relu ("before").

    The sign is the quantiser of the convolution's input, so the dropout is a part of the convolution.
    """

    def __init__(self, width_in: int, width: int, kernel: int, norm: Literal["before", "after"], drop: float = 0.0) -> None:
        super().__init__()
        after = norm == "after"
        if not after:
            self.bn: nn.Module = BoundedNorm2d(width_in, eps=1e-4)
        if drop:
            self.conv: nn.Conv2d = DroppingConv2d(width_in, width, kernel, drop, padding=kernel // 2, bias=not after)
        else:
            self.conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=not after)
        if after:
            self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H, W)."""
        x = self.bn(self.conv(x)) if self.after else self.conv(self.bn(x))
        out: Tensor = self.relu(x)
        return out


class Nin(ZooNet):
    """Three stages (5x5, 5x5, 3x3, each followed by 1x1), pooled by two; a 1x1 convolution gives a map of each class.

    Batch norm after every convolution instead of the dropout of the original, which predates it.
    """

    first_conv, classifier, feature_layer = "stage1.0.conv", "head", "stage2.2"
    norm: Literal["before", "after"] = "after"
    drop = 0.0

    def __init__(self, classes: int, in_chans: int = 3, widths: Widths = CIFAR) -> None:
        super().__init__()
        (a, b, c), (d, e, f), (g, h) = widths
        self.stage1 = nn.Sequential(self._first(in_chans, a), *self._units((a, b, c), 1))
        self.pool1 = nn.MaxPool2d(3, 2, padding=1)
        self.stage2 = nn.Sequential(*self._units((c, d), 5, self.drop), *self._units((d, e, f), 1))
        self.pool2 = nn.AvgPool2d(3, 2, padding=1)
        self.stage3 = nn.Sequential(*self._units((f, g), 3, self.drop), *self._units((g, h), 1))
        self.neck: nn.Module = nn.Identity()
        self.head = nn.Conv2d(h, classes, 1)
        self.tail: nn.Module = nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        initialise(self.modules())

    def _first(self, in_chans: int, width: int) -> Unit:
        return Unit(in_chans, width, 5, "after")

    def _units(self, widths: tuple[int, ...], kernel: int, drop: float = 0.0) -> list[Unit]:
        return [Unit(i, o, kernel, self.norm, drop) for i, o in itertools.pairwise(widths)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> logits (N, classes)."""
        x = self.pool1(self.stage1(x))
        x = self.pool2(self.stage2(x))
        return self.pool(self.tail(self.head(self.neck(self.stage3(x))))).flatten(1)  # type: ignore[no-any-return]


class XnorNin(Nin):
    """NIN as XNOR-Net (Rastegari et al., arXiv 1603.05279) binarises it: norm - sign - dropout - conv - relu.

    A definition only: `QuantSpec(method="xnor", ...)` puts the sign before, and the binary weights into, every convolution
    but the first and the last. As in the authors' net, half of the signs are dropped before the first convolution after each
    pooling, the first norm and the one before the head have neither gain nor bias, all other gains stay at least MIN_GAIN,
    and logits are averages of rectified maps.
    """

    norm: Literal["before", "after"] = "before"
    drop = 0.5

    def __init__(self, classes: int, in_chans: int = 3, widths: Widths = CIFAR) -> None:
        super().__init__(classes, in_chans, widths)
        self.neck = nn.BatchNorm2d(widths[2][1], eps=1e-4, affine=False)
        self.tail = nn.ReLU()

    def _first(self, in_chans: int, width: int) -> Unit:
        unit = Unit(in_chans, width, 5, "after")
        unit.bn = nn.BatchNorm2d(width, eps=1e-4, affine=False)
        return unit


def small(classes: int, width: int = 24, in_chans: int = 1) -> Nin:
    """Return a NIN-like net for 16x16 images (30 thousand parameters at width 24)."""
    return Nin(classes, in_chans, ((width, width, width), (width, width, width), (2 * width, width)))
