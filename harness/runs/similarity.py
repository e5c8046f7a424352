"""How far images are from each other beside the largest byte: the L2 norm, and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.records.rows import Size
from zoo.kernels import fixed

WINDOW = 11
SIGMA = 1.5
CHUNK = 16
"""Images compared at once; fixed, as float kernels differ in their last bits between batch sizes."""


def size(adv: Tensor, clean: Tensor, device: str = "cpu") -> Size | None:
    """Return the mean L2 norm and the mean SSIM of uint8 images (N, C, H, W) against the clean ones; None without images."""
    if not len(adv):
        return None
    if device != "cpu" and not torch.cuda.is_available():
        device = "cpu"  # the images came from a cluster's GPU
    norms, similar = [], []
    for start in range(0, len(adv), CHUNK):
        a, x = (images[start : start + CHUNK].to(device).float() / 255 for images in (adv, clean))
        norms.append((a - x).flatten(1).double().norm(dim=1).cpu())
        with fixed(device):
            similar.append(ssim(a, x).cpu())
    means = [float(torch.cat(found).double().mean()) for found in (norms, similar)]
    return Size(l2=round(means[0], 4), ssim=round(min(1.0, means[1]), 4))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (N,) of images (N, C, H, W) in [0, 1].

    Wang et al., "Image quality assessment", IEEE TIP 2004, Eq. 13: an 11 x 11 Gaussian window of standard deviation 1.5,
    K1 = 0.01, K2 = 0.03, population variances, the mean over the places where the window lies within the image and over
    channels. The window shrinks to an odd side that fits images under 11 pixels.
    """
    n, channels, height, width = a.shape
    side = min(WINDOW, height - (height + 1) % 2, width - (width + 1) % 2)
    taps = torch.exp(-((torch.arange(side, dtype=a.dtype, device=a.device) - side // 2) ** 2) / (2 * SIGMA**2))
    taps = taps / taps.sum()
    maps = torch.cat([a, b, a * a, b * b, a * b]).reshape(5 * n * channels, 1, height, width)
    maps = F.conv2d(F.conv2d(maps, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    ma, mb, aa, bb, ab = maps.reshape(5, n, channels, *maps.shape[-2:])
    va, vb, cov = aa - ma * ma, bb - mb * mb, ab - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    index = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    mean: Tensor = index.mean(dim=(1, 2, 3))
    return mean
