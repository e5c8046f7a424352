"""Small networks that have what large ones have: strides, groups, biases, a residual sum, signed inputs."""

import torch
from torch import nn

from zoo import quant
from zoo.registry.entry import QuantSpec


class TinyNet(nn.Module):
    first_conv = "stem"
    classifier = "head"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn2 = nn.BatchNorm2d(8)
        self.bottleneck = nn.Conv2d(8, 8, 1)  # its input is signed: no activation before it
        self.expand = nn.Conv2d(8, 12, 3, stride=2)
        self.hidden = nn.Linear(12, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.stem(x)).relu()
        x = x + self.bottleneck(self.bn2(self.depthwise(x)))
        x = self.expand(x.relu()).relu().mean((2, 3))
        return self.head(self.hidden(x).relu())


def tiny(seed: int = 0) -> TinyNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyNet().eval()


def images(n: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def spec(method: str = "apot", w: int = 2, a: int = 2, edge: int = 8) -> QuantSpec:
    return QuantSpec(method=method, w_bits=w, a_bits=a, edge_bits=edge)


def quantized(method: str = "apot", w: int = 2, a: int = 2) -> nn.Module:
    net = quant.quantize(tiny(), spec(method, w, a))
    quant.calibrate(net, images())
    quant.reestimate_batchnorm(net, [images()])
    return net
