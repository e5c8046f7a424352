"""What the networks of this package have in common."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


class ZooNet(nn.Module):
    """A classifier that maps normalised images to logits and says which of its modules are what.

    first_conv, classifier: first and last layer with weights, which quantisers treat apart. feature_layer: the module whose
    output feature attacks disturb, a non-negative map near half depth.
    """

    first_conv: str
    classifier: str
    feature_layer: str


def conv_bn(width_in: int, width_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a padded convolution without bias and its batch norm."""
    conv = nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width_out)]


def initialise(modules: Iterable[nn.Module]) -> None:
    """Draw convolution weights from He et al.'s normal distribution (fan-out) and zero their biases, from torch's generator."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
