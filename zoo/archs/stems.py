"""ImageNet nets of timm with stems for 32x32 images: no early down-sampling, everything else as it is.

At 32 pixels the ImageNet stems would leave a map of one pixel half-way. Each change below is the custom on CIFAR-10.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo._compat import ensure_torchvision


def resnet18(classes: int, in_chans: int = 3) -> nn.Module:
    """Return timm's ResNet-18 with a 3x3 stem of stride 1 and no max-pooling."""
    return _resnet("resnet18", classes, in_chans)


def resnet50(classes: int, in_chans: int = 3) -> nn.Module:
    """Return timm's ResNet-50 with a 3x3 stem of stride 1 and no max-pooling."""
    return _resnet("resnet50", classes, in_chans)


def densenet121(classes: int, in_chans: int = 3) -> nn.Module:
    """Return timm's DenseNet-121 with a 3x3 stem of stride 1 and no max-pooling."""
    net = _create("densenet121", classes, in_chans)
    net.features.conv0 = _stem(in_chans, 64)
    net.features.pool0 = nn.Identity()
    return net  # type: ignore[no-any-return]


def mobilenetv2(classes: int, in_chans: int = 3) -> nn.Module:
    """Return timm's MobileNet-v2 with stride 1 in the stem and in the first down-sampling block (a 4x4 map at the end)."""
    net = _create("mobilenetv2_100", classes, in_chans)
    net.conv_stem.stride = net.blocks[1][0].conv_dw.stride = (1, 1)
    return net  # type: ignore[no-any-return]


def _resnet(name: str, classes: int, in_chans: int) -> nn.Module:
    net = _create(name, classes, in_chans)
    net.conv1, net.maxpool = _stem(in_chans, 64), nn.Identity()
    return net  # type: ignore[no-any-return]


def _stem(in_chans: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _create(name: str, classes: int, in_chans: int) -> Any:
    ensure_torchvision()
    import timm

    return timm.create_model(name, num_classes=classes, in_chans=in_chans)
