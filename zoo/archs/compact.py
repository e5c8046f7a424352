"""Small ImageNet networks that timm does not have: SqueezeNet (Iandola et al., 2016) and Tiny Darknet (Redmon, 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.archs.base import ZooNet, conv_bn, initialise

FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Channels that each fire module squeezes to, and that each of its two expansions gives; fire2 to fire9."""
POOLS = {"1.0": (3, 7), "1.1": (2, 4)}
"""Fire modules before which the maps are pooled, besides after the stem, counted from 0."""


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and by 3x3, side by side: (N, C, H, W) -> (N, 2 * expand, H, W)."""

    def __init__(self, width_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return both expansions."""
        x = self.relu(self.squeeze(x))
        return self.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))  # type: ignore[no-any-return]


class SqueezeNet(ZooNet):
    """SqueezeNet 1.0 or 1.1 as its Caffe models are: pools round up, the stem is not padded.

    The classifier of 1.0 pads its 1x1 convolution by one, so that a ring of its biases takes part in the average.
    """

    first_conv, classifier, feature_layer = "conv1", "conv10", "fires.3"

    def __init__(self, classes: int, version: str = "1.1") -> None:
        super().__init__()
        if version not in POOLS:
            raise TypeError(f"argument version is one of {', '.join(POOLS)}, not {version!r}")
        width, kernel = (96, 7) if version == "1.0" else (64, 3)
        self.conv1 = nn.Conv2d(3, width, kernel, stride=2)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.pooled = POOLS[version]
        self.fires = nn.ModuleList()
        for squeeze, expand in FIRES:
            self.fires.append(Fire(width, squeeze, expand))
            width = 2 * expand
        self.conv10 = nn.Conv2d(width, classes, 1, padding=int(version == "1.0"))
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        x = self.pool(self.relu(self.conv1(x)))
        for place, fire in enumerate(self.fires):
            x = fire(self.pool(x) if place in self.pooled else x)
        return self.relu(self.conv10(x)).mean((2, 3))  # type: ignore[no-any-return]


DARKNET = (16, 0, 32, 0, -16, 128, -16, 128, 0, -32, 256, -32, 256, 0, -64, 512, -64, 512, -128)
"""Channels of Tiny Darknet's convolutions: 3x3, 1x1 where negative, and 0 where maps are pooled by 2."""


class TinyDarknet(ZooNet):
    """Tiny Darknet: 3x3 convolutions with narrow 1x1 ones between them, leaky by 0.1."""

    first_conv, classifier, feature_layer = "features.0", "last", "features.26"

    def __init__(self, classes: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        width = 3
        for channels in DARKNET:
            if channels == 0:
                parts.append(nn.MaxPool2d(2, 2))
                continue
            parts += [*conv_bn(width, abs(channels), 3 if channels > 0 else 1), nn.LeakyReLU(0.1)]
            width = abs(channels)
        self.features = nn.Sequential(*parts)
        self.last = nn.Conv2d(width, classes, 1)
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        return self.last(self.features(x)).mean((2, 3))  # type: ignore[no-any-return]
