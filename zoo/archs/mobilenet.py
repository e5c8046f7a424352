"""A MobileNet-v2-like net (Sandler et al., arXiv 1801.04381) for 16x16 images."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.archs.base import ZooNet, conv_bn, initialise


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by 3x3, project linearly; add the input where shapes agree."""

    def __init__(self, width_in: int, width: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = width_in * expand
        self.expand = nn.Sequential(*conv_bn(width_in, hidden, 1), nn.ReLU())
        self.depthwise = nn.Sequential(*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU())
        self.project = nn.Sequential(*conv_bn(hidden, width, 1))
        self.residual = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class SmallMobileNet(ZooNet):
    """Stem, five inverted residuals in three resolutions, a 1x1 head (33 thousand parameters at width 12).

    The bottlenecks are linear, so the inputs of the expanding convolutions take either sign. feature_layer is an expanded,
    rectified map of the middle resolution.
    """

    first_conv, classifier, feature_layer = "stem.0", "fc", "blocks.2.expand"

    def __init__(self, classes: int, width: int = 12, in_chans: int = 1, expand: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(in_chans, width, 3), nn.ReLU())
        plan = ((width, 1), (2 * width, 2), (2 * width, 1), (3 * width, 2), (3 * width, 1))
        widths = [width, *(w for w, _ in plan)]
        self.blocks = nn.Sequential(
            *(InvertedResidual(i, o, stride, expand) for i, (o, stride) in zip(widths, plan, strict=False))
        )
        self.head = nn.Sequential(*conv_bn(widths[-1], 6 * width, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6 * width, classes)
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, 16, 16) -> logits (N, classes)."""
        logits: Tensor = self.fc(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))
        return logits
