"""The size of a perturbation: L2 by hand, SSIM against its definition, written out window by window."""

from __future__ import annotations

import math

import numpy as np
import torch

from harness.runs.similarity import size, ssim


def by_definition(a: np.ndarray, b: np.ndarray, side: int) -> float:
    """Wang et al. 2004, Eqs. 13-16, of one channel (H, W) in [0, 1]: a loop over windows."""
    half = side // 2
    places = range(-half, half + 1)
    weights = np.array([[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in places] for i in places])
    weights /= weights.sum()
    found = []
    for y in range(half, a.shape[0] - half):
        for x in range(half, a.shape[1] - half):
            p, q = (image[y - half : y + half + 1, x - half : x + half + 1] for image in (a, b))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            c1, c2 = 1e-4, 9e-4
            found.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found))


def test_ssim_is_its_definition() -> None:
    random = np.random.default_rng(0)
    for shape, side in (((16, 13), 11), ((8, 9), 7)):
        a, b = random.random((2, 3, *shape)), random.random((2, 3, *shape))
        expected = [np.mean([by_definition(x, y, side) for x, y in zip(p, q, strict=True)]) for p, q in zip(a, b, strict=True)]
        assert np.allclose(ssim(torch.tensor(a), torch.tensor(b)).numpy(), expected, atol=1e-10)


def test_size_of_one_pixel_by_hand() -> None:
    clean = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    adv = clean.clone()
    adv[0, 0, 3, 4], adv[0, 0, 5, 6] = 51, 68  # 0.2 and 0.2667: a norm of 1/3
    found = size(adv, clean)
    assert found is not None and found.l2 == round((1 / 3) / 2, 4)
    same = size(clean, clean)
    assert same is not None and (same.l2, same.ssim) == (0.0, 1.0)
    assert size(clean[:0], clean[:0]) is None


def test_size_does_not_depend_on_the_number_of_images() -> None:
    random = torch.Generator().manual_seed(1)
    clean = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=random)
    adv = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=random)
    whole = size(adv, clean)
    parts = [size(adv[i : i + 20], clean[i : i + 20]) for i in (0, 20)]
    assert whole is not None and all(parts)
    assert abs(whole.ssim - sum(p.ssim for p in parts if p) / 2) < 2e-4
