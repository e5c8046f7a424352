"""AlexNet (Krizhevsky et al., 2012) adapted to 32x32 images, in full precision and in the layer order of BNN.

The original takes 224 pixels: its 11x11 convolution of stride 4 and three poolings would leave nothing of 32. Here the first
convolution is 5x5 of stride 1, the poolings (3x3, stride 2, padded) take 32 to 16, 8 and 4, and the hidden linear layers have
1024 units instead of 4096; the channels are those of the one-tower version (64, 192, 384, 256, 256).
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.archs.base import ZooNet, initialise

CONVS = ((64, 5, True), (192, 5, True), (384, 3, False), (256, 3, False), (256, 3, True))  # width, kernel, pooled
HIDDEN = 1024


class AlexNet(ZooNet):
    """Five convolutions (conv - bn - relu - pool) and three linear layers with dropout before the hidden two.

    Batch norm instead of local response normalisation, as low-bit training needs it.
    """

    first_conv, classifier, feature_layer = "features.0.conv", "fc3", "features.2.act"

    def __init__(self, classes: int, in_chans: int = 3) -> None:
        super().__init__()
        widths = [in_chans, *(width for width, _, _ in CONVS)]
        self.features = nn.Sequential(
            *(self._stage(i, o, kernel, pooled) for i, (o, kernel, pooled) in zip(widths, CONVS, strict=False))
        )
        self.drop1, self.drop2 = nn.Dropout(0.5), nn.Dropout(0.5)
        self.fc1, self.bn1, self.act1 = self._linear(widths[-1] * 16)
        self.fc2, self.bn2, self.act2 = self._linear(HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, classes)
        self.bn3: nn.Module = nn.Identity()
        initialise(self.modules())

    def _stage(self, width_in: int, width: int, kernel: int, pooled: bool) -> nn.Module:
        return _Stage({**_conv(width_in, width, kernel), "act": nn.ReLU(), **_pool(pooled)})

    def _linear(self, width_in: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        return nn.Linear(width_in, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, 32, 32) -> logits (N, classes)."""
        x = self.features(x).flatten(1)
        x = self.act1(self.bn1(self.fc1(self.drop1(x))))
        x = self.act2(self.bn2(self.fc2(self.drop2(x))))
        logits: Tensor = self.bn3(self.fc3(x))
        return logits


class BnnAlexNet(AlexNet):
    """AlexNet as BNN (Hubara et al., 2016) binarises it: conv - pool - bn - hardtanh, and a norm of the logits.

    A definition only: `QuantSpec(method="bnn", ...)` makes inputs and weights binary. Hardtanh clips the straight-through
    gradient, and the last norm scales logits that are sums of +-1. No dropout: binary noise regularises.
    """

    def __init__(self, classes: int, in_chans: int = 3) -> None:
        super().__init__(classes, in_chans)
        self.drop1, self.drop2 = nn.Dropout(0.0), nn.Dropout(0.0)
        self.bn3 = nn.BatchNorm1d(classes)

    def _stage(self, width_in: int, width: int, kernel: int, pooled: bool) -> nn.Module:
        parts = _conv(width_in, width, kernel)
        return _Stage({"conv": parts["conv"], **_pool(pooled), "bn": parts["bn"], "act": nn.Hardtanh()})

    def _linear(self, width_in: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        return nn.Linear(width_in, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.Hardtanh()


class _Stage(nn.Sequential):
    """A sequence with named parts."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def _conv(width_in: int, width: int, kernel: int) -> dict[str, nn.Module]:
    conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False)
    return {"conv": conv, "bn": nn.BatchNorm2d(width)}


def _pool(pooled: bool) -> dict[str, nn.Module]:
    return {"pool": nn.MaxPool2d(3, 2, padding=1)} if pooled else {}
