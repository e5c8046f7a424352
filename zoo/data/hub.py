"""Data sets on the Hub, pinned by revision and, where it is known, sha256; fetched, checked and kept as weights are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from zoo.data import Dataset
from zoo.data.images import Item, assemble, from_parquet, from_zip
from zoo.errors import UserError


@dataclass(frozen=True)
class File:
    """One file of a data-set repository. A null hash is recorded when the file is first fetched, and holds from then on."""

    path: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Pinned:
    """A data set: where its files are, how many classes it has, and the side that its images are brought to."""

    repo: str
    revision: str
    splits: dict[str, tuple[File, ...]]
    classes: int
    side: int | None = None


SETS = {
    "cifar10": Pinned(
        "uoft-cs/cifar10",
        "0b2714987fa478483af9968de7c934580d0bb9a2",
        {
            "test": (
                File(
                    "plain_text/test-00000-of-00001.parquet",
                    "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
                    23_940_850,
                ),
            ),
            "train": (
                File(
                    "plain_text/train-00000-of-00001.parquet",
                    "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
                ),
            ),
        },
        classes=10,
    ),
    "imagenet-compatible": Pinned(
        "Trustworthy-AI-Group/TransferAttack",
        "3a085da15b727e6feb2fdebbf1793f45e30476b2",
        {"test": (File("data.zip", "e8888967c28f751361f0cac50453e29c93f39be81b715f469ef3fc0b4bf750f5", 134_126_090),)},
        classes=1000,
        side=299,
    ),
    "imagenet": Pinned(
        "ILSVRC/imagenet-1k",
        "49e2ee26f3810fb5a7536bbf732a7b07389a47b5",
        {"test": tuple(File(f"data/validation-{i:05d}-of-00014.parquet") for i in range(14))},
        classes=1000,
    ),
}
"""The public data sets of the suites. The 1,000 ImageNet-compatible images are attacked at 299 px, as in the paper."""


@lru_cache(maxsize=4)
def load(name: str, split: str) -> Dataset:
    """Return a pinned data set, fetching its files where they are not in the cache.

    Raises:
        UserError: there is no such split, or a file cannot be had or is not the one that is pinned.
    """
    pinned = SETS[name]
    return assemble(name, split, items(name, split), pinned.classes, pinned.side)


def items(name: str, split: str) -> Iterator[Item]:
    """Yield the encoded images of a pinned data set."""
    paths = fetch(name, split)
    if paths and SETS[name].splits[split][0].path.endswith(".zip"):
        return from_zip(paths[0])
    return from_parquet(paths, f"{name}-{split}")


def fetch(name: str, split: str) -> list[Path]:
    """Return the verified files of one split of a pinned data set."""
    from zoo.hub import DownloadOptions
    from zoo.hub.servers import hub_source
    from zoo.hub.transfer import Want, get

    pinned = SETS[name]
    if split not in pinned.splits:
        known = " and ".join(map(repr, pinned.splits))
        raise UserError(f"data set {name!r} has no split {split!r}, only {known}")
    options = DownloadOptions(progress=sys.stderr.isatty())
    found = []
    for file in pinned.splits[split]:
        source = hub_source(pinned.repo, pinned.revision, file.path, dataset=True)
        found.append(get(source, Want(f"data set {name}", file.sha256, file.size), options))
    return found
