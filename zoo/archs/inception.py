"""Inception-v3 as TensorFlow-Slim defines it, for weights that were trained there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo._compat import ensure_torchvision


def inception_v3_tf(classes: int, in_chans: int = 3) -> nn.Module:
    """Return timm's Inception-v3 whose averages leave padding out, as TensorFlow's do; keys and names are timm's.

    timm's blocks average 3x3 windows over zeros at the border (`count_include_pad`), which is what its own weights were trained
    with; networks of Slim (Tramer et al.'s ens3 and ens4) average the pixels that are there.
    """
    ensure_torchvision()
    import timm

    net = timm.create_model("inception_v3", num_classes=classes, in_chans=in_chans)
    for block in net.modules():
        if isinstance(getattr(block, "branch_pool", None), nn.Module):
            block.branch_pool = PooledBranch(block.branch_pool)
    return net  # type: ignore[no-any-return]


class PooledBranch(nn.Module):
    """The convolution behind an average over 3x3 windows, which takes the padding out of the average first.

    Input and output are (N, C, H, W). A window has 9 places, of which 6 hold pixels at an edge and 4 in a corner.
    """

    conv: nn.Module
    bn: nn.Module

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn = branch.get_submodule("conv"), branch.get_submodule("bn")

    def forward(self, x: Tensor) -> Tensor:
        """Return what the branch makes of the averages over pixels alone."""
        rows, columns = (_share(size, x) for size in x.shape[2:])
        out: Tensor = self.bn(self.conv(x / (rows[:, None] * columns)))
        return out


def _share(size: int, like: Tensor) -> Tensor:
    """Return for each place along a side which share of a window of three holds pixels: 2/3 at the ends, else 1."""
    places = torch.arange(size, device=like.device)
    inside = 3 - (places == 0).to(like.dtype) - (places == size - 1).to(like.dtype)
    return inside / 3
