"""A hundred ImageNet-compatible images that ship with the package, with their authors beside them."""

from __future__ import annotations

from functools import lru_cache

from zoo.data import Dataset
from zoo.data.images import assemble, from_parquet
from zoo.errors import UserError
from zoo.hub.weights import bundled_file

NAME = "imagenet-compatible-mini"
DIGEST = "c2d30d38713d41fb107cdc610dbe3c0d8763a41e886c055fca3dbd2fbd0b699d"
CLASSES = 1000


@lru_cache(maxsize=1)
def load(split: str) -> Dataset:
    """Return the images (100, 3, 299, 299) with ImageNet's labels.

    They are of the NIPS 2017 development set: of its first 300 images those whose lossless file takes at most 110,000 bytes.

    Raises:
        UserError: another split than `test`, or a file that is not the package's.
    """
    if split != "test":
        raise UserError(f"data set {NAME!r} has the split 'test' alone, not {split!r}; it is too small to train on")
    path = bundled_file(f"{NAME}.parquet")
    if not path.is_file():
        raise UserError(f"the package lacks {path}; install it again")
    found = assemble(NAME, split, from_parquet([path], f"{NAME}-test"), CLASSES)
    if found.digest != DIGEST:
        raise UserError(f"{path} was altered: its images have digest {found.digest} instead of {DIGEST}; install it again")
    return found
