"""CIFAR ResNets of He et al. (arXiv 1512.03385, section 4.2): three stages of basic blocks, depth 6n + 2.

Module names follow torchvision's ResNets, so published CIFAR files differ from ours by a prefix and the classifier's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.base import ZooNet, conv_bn, initialise
from zoo.errors import UserError

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A: every second pixel, with zero channels added on both sides. No parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = extra // 2, extra - extra // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + extra, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(bn(conv(relu(bn(conv(x))))) + downsample(x))."""

    def __init__(self, width_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(width_in, width, 3, stride)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = conv_bn(width, width, 3)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            if shortcut == "A":
                self.downsample = PadShortcut(width - width_in, stride)
            else:
                self.downsample = nn.Sequential(*conv_bn(width_in, width, 1, stride))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H / stride, W / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.downsample(x)
        out: Tensor = self.relu2(y)
        return out


class ResNet(ZooNet):
    """ResNet of depth 6 `blocks` + 2 with stages of width, 2 width and 4 width channels.

    shortcut: "A" pads with zeros, "B" projects by a 1x1 convolution where the shape changes.
    """

    first_conv, classifier, feature_layer = "conv1", "fc", "layer2"

    def __init__(self, classes: int, blocks: int, width: int = 16, in_chans: int = 3, shortcut: Shortcut = "A") -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise UserError(f"shortcut must be 'A' (zero padding) or 'B' (1x1 convolution), not {shortcut!r}")
        self.conv1, self.bn1 = conv_bn(in_chans, width, 3)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, blocks, 1, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> logits (N, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _stage(width_in: int, width: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(width_in, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width, 1, shortcut) for _ in range(blocks - 1)))


def maker(depth: int, width: int = 16, in_chans: int = 3) -> Callable[..., ResNet]:
    """Return a constructor (classes, width, in_chans, shortcut) of the ResNet of one depth, with defaults of its own."""
    default_width, default_chans = width, in_chans

    def make(
        classes: int, width: int = default_width, in_chans: int = default_chans, shortcut: Shortcut = "A"
    ) -> ResNet:
        return ResNet(classes, (depth - 2) // 6, width, in_chans, shortcut)

    return make
