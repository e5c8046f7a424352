"""A DenseNet-like net (Huang et al., arXiv 1608.06993) for 16x16 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.archs.base import ZooNet, initialise


class DenseLayer(nn.Module):
    """bn - relu - conv 3x3, whose `growth` maps are appended to its input."""

    def __init__(self, width_in: int, growth: int) -> None:
        super().__init__()
        self.bn, self.relu = nn.BatchNorm2d(width_in), nn.ReLU()
        self.conv = nn.Conv2d(width_in, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(self.relu(self.bn(x)))], 1)


class SmallDenseNet(ZooNet):
    """Stem, three dense blocks with halving transitions in between, norm, pooling (35 thousand parameters by default).

    feature_layer is the rectified input of the second transition, which sees all maps of the middle block.
    """

    first_conv, classifier, feature_layer = "stem", "fc", "trans2.1"

    def __init__(self, classes: int, growth: int = 8, depth: int = 4, in_chans: int = 1) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.block1, width = _block(width, growth, depth)
        self.trans1, width = _transition(width)
        self.block2, width = _block(width, growth, depth)
        self.trans2, width = _transition(width)
        self.block3, width = _block(width, growth, depth)
        self.norm = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(width, classes)
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, 16, 16) -> logits (N, classes)."""
        x = self.trans1(self.block1(self.stem(x)))
        x = self.block3(self.trans2(self.block2(x)))
        logits: Tensor = self.fc(self.norm(x).flatten(1))
        return logits


def _block(width: int, growth: int, depth: int) -> tuple[nn.Sequential, int]:
    return nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(depth))), width + depth * growth


def _transition(width: int) -> tuple[nn.Sequential, int]:
    conv = nn.Conv2d(width, width // 2, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv, nn.AvgPool2d(2)), width // 2
