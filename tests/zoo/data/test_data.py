"""Data sets: the same bytes for everybody."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.data import Dataset, load
from zoo.data.digits import upscale
from zoo.errors import UserError

TEST_DIGEST = "381436c7ca07"


def test_digits_are_real_split_fixed_and_disjoint() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    assert tuple(test.images.shape[1:]) == (1, 16, 16) and test.images.dtype == torch.uint8
    assert not set(train.ids) & set(test.ids)
    assert test.labels.bincount().min() >= 40
    assert test.digest.startswith(TEST_DIGEST)


def test_upscaling_is_bilinear() -> None:
    raw = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    expected = F.interpolate(torch.tensor(raw)[:, None].double(), scale_factor=2, mode="bilinear")[:, 0] * 255 / 16
    assert np.abs(upscale(raw) - expected.numpy()).max() <= 0.5


def test_digest_notices_one_changed_bit_of_anything() -> None:
    data = load("digits", "test").head(4)
    pixels, labels = data.images.clone(), data.labels.clone()
    pixels[3, 0, 15, 15] ^= 1
    labels[0] = (labels[0] + 1) % 10
    other = [
        Dataset("digits", "test", pixels, data.labels, data.ids),
        Dataset("digits", "test", data.images, labels, data.ids),
        Dataset("digits", "test", data.images, data.labels, (*data.ids[:3], "x")),
    ]
    assert len({data.digest, *(d.digest for d in other)}) == 4


def test_unknown_data_set_or_split_is_a_user_error() -> None:
    with pytest.raises(UserError, match="did you mean 'digits'"):
        load("digit")
    with pytest.raises(UserError, match="'train' and 'test'"):
        load("digits", "validation")
