"""Data sets as uint8 images with labels, ids and a digest: the same bytes for everybody, or an error.

It may import `registry` and `hub`, which fetches the files; it knows no networks. Begin with `Dataset` and `load` below;
`digits` ships with scikit-learn and `mini` with this package, `hub` and `images` read parquet and archives, `imagenet` prepares
ImageNet once, `local` reads folders; `rectangles` are training images of many shapes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from zoo.data.rectangles import Photographs
from zoo.errors import UserError, did_you_mean

ENVIRONMENT = "ZOO_DATA"
"""Environment variable that names local copies of data sets; see `load`."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one split.

    images: (N, C, H, W) uint8. labels: (N,) int64, 0-based. ids: one name per image, unique.
    """

    name: str
    split: str
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1] or len(self.ids) != len(self):
            raise ValueError("labels must be int64 (N,), with one id per image")

    def __len__(self) -> int:
        return self.images.shape[0]

    def head(self, limit: int | None) -> Dataset:
        """Return the first `limit` images; all of them when `limit` is None or larger."""
        if limit is None or limit >= len(self):
            return self
        return Dataset(self.name, self.split, self.images[:limit], self.labels[:limit], self.ids[:limit])

    def batch(self, index: Tensor) -> Tensor:
        """Return the images of these places (n, C, H, W)."""
        return self.images[index]

    @cached_property
    def digest(self) -> str:
        """sha256 over the shape, the pixels, the labels and the ids; computed once."""
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for start in range(0, len(self), 1024):  # in pieces: a mapped set is larger than memory
            sha.update(self.images[start : start + 1024].contiguous().numpy().data)
        sha.update(self.labels.numpy().astype("<i8").tobytes())
        sha.update("\n".join(self.ids).encode())
        return sha.hexdigest()


Training = Dataset | Photographs
"""What a network can be trained on."""


def load(name: str, split: str = "test") -> Dataset:
    """Return a data set by the name that the registry and the suites use, or by `folder:PATH` or `parquet:PATH`.

    $ZOO_DATA names local copies: `cifar10=parquet:PATH` that of one data set (several are separated by semicolons), and
    `parquet:PATH` alone that of every one. Images of a copy have the ids that those of the set itself have.

    Raises:
        UserError: the name or the split is unknown, or the data is not on this machine and cannot be fetched.
    """
    if name.startswith(("folder:", "parquet:")):
        from zoo.data import local

        return local.load(name, split)
    loaders = _loaders()
    if name in loaders and (copy := _copy_of(name)):
        from zoo.data import local

        return local.load(copy, split, name)
    if name not in loaders:
        known = ", ".join(sorted(loaders))
        raise UserError(f"unknown data set {name!r}{did_you_mean(name, loaders)}; known: {known}, folder:PATH, parquet:PATH")
    return loaders[name](split)


def training(name: str) -> Training:
    """Return the training images of a data set by the name that `load` takes: ImageNet's are rectangles of many shapes.

    Raises:
        UserError: as `load`.
    """
    from zoo.data import imagenet

    if name in imagenet.VIEWS and not _copy_of(name):
        return imagenet.training(name)
    return load(name, "train")


def _copy_of(name: str) -> str | None:
    """Return where $ZOO_DATA says that a local copy of a data set is, or None."""
    for part in filter(None, os.environ.get(ENVIRONMENT, "").split(";")):
        of, _, place = part.rpartition("=") if not part.startswith(("folder:", "parquet:")) else ("", "", part)
        if not place.startswith(("folder:", "parquet:")):
            raise UserError(f"${ENVIRONMENT}: {part!r} is neither NAME=folder:PATH nor NAME=parquet:PATH")
        if of in ("", name):
            return place
    return None


def _loaders() -> dict[str, Callable[[str], Dataset]]:
    from zoo.data import digits, hub, imagenet, mini

    found: dict[str, Callable[[str], Dataset]] = {"digits": digits.load, mini.NAME: mini.load}
    for name in ("cifar10", "imagenet-compatible"):
        found[name] = partial(hub.load, name)
    for name in imagenet.VIEWS:
        found[name] = partial(imagenet.load, name)
    return found
