"""Tiny networks for the attack tests: 16x16 images, a few channels, in float64 so that kernels do not decide."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.attacks import Images, Rng
from harness.substitutes import Crafter, Substitute, ensemble
from zoo._compat import ensure_torchvision
from zoo.quant import calibrate, quantize, reestimate_batchnorm
from zoo.registry.entry import QuantSpec, State

CLASSES = 5
EPS = 16 / 255


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(h)))


class TinyResNet(nn.Module):
    """Stem, two residual blocks with a stride between, linear head; `layer1` is the feature layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layer1 = Block(width)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.layer2 = Block(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer1(torch.relu(self.stem(x)))
        h = self.layer2(self.relu(self.down(h)))
        return self.head(h.mean((2, 3)))


def transformer() -> nn.Module:
    """Return a vision transformer of two blocks; `blocks.0` is its feature layer."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES, weight_init="jax"
    )


def net(seed: int = 0, dtype: torch.dtype = torch.float64, arch: Callable[[], nn.Module] = TinyResNet) -> nn.Module:
    """Return a random network with random normalisation statistics, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = arch()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
        with torch.no_grad():
            module.head.weight.normal_(0, 1)
    return module.to(dtype).eval()


def quantized(
    seed: int = 0,
    w_bits: int = 2,
    a_bits: int = 2,
    dtype: torch.dtype = torch.float64,
    arch: Callable[[], nn.Module] = TinyResNet,
) -> nn.Module:
    """Return a calibrated low-bit network."""
    module = quantize(net(seed, torch.float32, arch), QuantSpec(method="apot", w_bits=w_bits, a_bits=a_bits))
    batch = images(8, torch.float32)[0]
    calibrate(module, batch)
    reestimate_batchnorm(module, [batch])
    return module.to(dtype).eval()


def images(count: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return images on the byte grid with some pixels at both ends of the range, and labels."""
    generator = torch.Generator().manual_seed(count)
    x = torch.randint(-40, 296, (count, 3, 16, 16), generator=torch.Generator().manual_seed(7)).clamp(0, 255)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    return x.to(dtype) / 255, y


def pool() -> Images:
    """Return twelve images of all labels."""
    generator = torch.Generator().manual_seed(99)
    return Images(
        torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8), torch.arange(12) % CLASSES
    )


def rng(count: int = 3, seed: int = 0, first: int = 0) -> Rng:
    """Return generators for `count` images."""
    return Rng(seed, range(first, first + count))


ARCHS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet": (TinyResNet, "layer1"),
    "vit": (transformer, "blocks.0"),
}
SUBSTITUTES = ("plain", "2bit", "qaa", "ptq-qaa", "ensemble")


def substitute(name: str, arch: str = "resnet") -> Crafter:
    """Return a new substitute of the table."""
    make, layer = ARCHS[arch]
    if name == "plain":
        return Substitute(net(arch=make), feature_layer=layer)
    if name == "ensemble":
        members = (
            Substitute(net(1, arch=make), feature_layer=layer),
            Substitute(quantized(2, arch=make), ("wa",), feature_layer=layer),
        )
        return ensemble(members, "logits")
    states: dict[str, tuple[State, ...]] = {"2bit": ("wa",), "qaa": ("w", "wa"), "ptq-qaa": ("fp", "wa")}
    return Substitute(quantized(int(name == "ptq-qaa"), arch=make), states[name], feature_layer=layer)
