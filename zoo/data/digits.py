"""scikit-learn's bundled handwritten digits (UCI Optical Recognition of Handwritten Digits): 1,797 real 8x8 images, at 16x16."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from zoo.data import Dataset
from zoo.errors import UserError

TEST_EVERY = 18
TEST_PHASES = (0, 4, 7, 11, 14)
TRAIN_IMAGES, TEST_IMAGES = 1297, 500


@lru_cache(maxsize=2)
def load(split: str) -> Dataset:
    """Return the `train` (1,297 images) or `test` (500 images) split, each image (1, 16, 16).

    The images come in the order of their writers, so the test split takes five in eighteen evenly over the whole set.
    """
    if split not in ("train", "test"):
        raise UserError(f"data set 'digits' has the splits 'train' and 'test', not {split!r}")
    from sklearn.datasets import load_digits

    raw = load_digits()
    chosen = np.isin(np.arange(len(raw.target)) % TEST_EVERY, TEST_PHASES)
    test = np.flatnonzero(chosen)[:TEST_IMAGES]
    index = test if split == "test" else np.setdiff1d(np.arange(len(raw.target)), test)
    images = torch.from_numpy(upscale(raw.images[index].astype(np.int64)))[:, None]
    labels = torch.from_numpy(raw.target[index].astype(np.int64))
    return Dataset("digits", split, images, labels, tuple(f"digits-{i:04d}" for i in index))


def upscale(images: np.ndarray) -> np.ndarray:
    """Double (N, H, W) integer images of range 0..16 by bilinear interpolation (half-pixel centres) into uint8 0..255.

    All arithmetic is on integers, so the bytes are the same on every machine.
    """
    for axis in (1, 2):
        before = np.concatenate([images.take([0], axis), images.take(range(images.shape[axis] - 1), axis)], axis)
        after = np.concatenate([images.take(range(1, images.shape[axis]), axis), images.take([-1], axis)], axis)
        images = np.stack([3 * images + before, 3 * images + after], axis + 1).reshape(
            *(2 * n if a == axis else n for a, n in enumerate(images.shape))
        )
    return ((images * 255 + 128) // 256).astype(np.uint8)
