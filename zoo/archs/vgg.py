"""VGG nets with batch norm (Simonyan and Zisserman, arXiv 1409.1556) and one linear layer, as used on CIFAR-10."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.archs.base import ZooNet, conv_bn, initialise


class Vgg(ZooNet):
    """Stages of 3x3 convolutions, max-pooled in between (and at the end with `pool_last`), averaged, classified by one layer.

    The published nets have three linear layers of 4096 for 224 pixels; at 32 pixels one is the custom. feature_layer is the
    last ReLU of the middle stage (conv3 of VGG-16 and -19).
    """

    first_conv, classifier = "features.0", "head"

    def __init__(
        self, classes: int, stages: tuple[tuple[int, ...], ...], in_chans: int = 3, pool_last: bool = True
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        width_in = in_chans
        for index, widths in enumerate(stages):
            for width in widths:
                parts += [*conv_bn(width_in, width, 3), nn.ReLU()]
                width_in = width
            if index == len(stages) // 2:
                self.feature_layer = f"features.{len(parts) - 1}"
            if pool_last or index < len(stages) - 1:
                parts.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*parts)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width_in, classes)
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> logits (N, classes)."""
        logits: Tensor = self.head(self.pool(self.features(x)).flatten(1))
        return logits


def vgg19_bn(classes: int, in_chans: int = 3) -> Vgg:
    """Return VGG-19 with batch norm for 32x32 images: 16 convolutions, a 1x1x512 map, one linear layer."""
    return Vgg(classes, ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4), in_chans)


def small(classes: int, width: int = 12, in_chans: int = 1) -> Vgg:
    """Return a VGG-like net of six convolutions for 16x16 images (41 thousand parameters at width 12)."""
    return Vgg(classes, ((width,) * 2, (2 * width,) * 2, (4 * width,) * 2), in_chans, pool_last=False)
