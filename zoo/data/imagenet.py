"""ImageNet, resized and cropped once into a file that is mapped, since its images do not fit in memory.

The validation images come from the folder that $ZOO_IMAGENET names, or else from the gated repository on the Hub, with the
user's token; the training images from that folder only. It holds `train` and `val`, each with one folder for each class.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from zoo.data import Dataset
from zoo.data.images import Item, check_labels, decode, from_folder
from zoo.data.rectangles import Photographs, Rectangles
from zoo.errors import UserError
from zoo.registry.entry import Input

ENVIRONMENT = "ZOO_IMAGENET"
CLASSES = 1000


@dataclass(frozen=True)
class View:
    """How images are prepared: the shorter side is resized to `resize`, then the middle square of `side` is taken."""

    side: int
    resize: int
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, spec: Input) -> View:
        """Return the view that a network's accuracy was measured on."""
        return cls(spec.size, math.floor(spec.size / spec.crop_pct), spec.interpolation)


VIEWS = {"imagenet": View(224, 256), "imagenet-299": View(299, 341, "bicubic")}
"""The views that have names; `prepared` gives any other, as `zoo eval` needs."""
SHORTER = 256
"""Length of the shorter side of training images, out of which augmentation cuts its crops of 224 (Sec. IV-A, as torchvision)."""


def load(name: str, split: str) -> Dataset:
    """Return the validation images (split `test`) in one view: (N, 3, side, side).

    Raises:
        UserError: another split is asked for, or the images cannot be had.
    """
    if split == "train":
        raise UserError(f"the training images of {name!r} differ in shape; zoo.data.training({name!r}) gives them")
    if split != "test":
        raise UserError(f"data set {name!r} has the splits 'train' and 'test' (the validation images), not {split!r}")
    return prepared(name, split, VIEWS[name])


@lru_cache(maxsize=1)
def training(name: str) -> Photographs:
    """Return the training images as whole rectangles, from the file that holds them so; it is made when there is none.

    The whole set takes about 340 GB of disk.

    Raises:
        UserError: the images cannot be had.
    """
    key, items = _items("train")
    base = _folder() / hashlib.sha256(f"{key} rectangles {SHORTER} {ROUNDING}".encode()).hexdigest()
    index = base.with_suffix(".json")
    if not index.is_file():
        _build(f"{name} train", base, items(), _resize(SHORTER, "bilinear"))
    found = json.loads(index.read_text(encoding="utf-8"))
    sides = torch.tensor(found["sides"], dtype=torch.int64)
    flat = torch.from_file(str(base.with_suffix(".u8")), shared=False, size=int(3 * sides.prod(1).sum()), dtype=torch.uint8)
    labels = torch.tensor(found["labels"], dtype=torch.int64)
    return Photographs(name, "train", Rectangles.of(flat, sides), labels, tuple(found["ids"]))


ROUNDING = "torchvision"
"""How places are rounded: part of a prepared file's name, so that one that was prepared otherwise is not taken for it."""


@lru_cache(maxsize=2)
def prepared(name: str, split: str, view: View) -> Dataset:
    """Return the images of a split in any view, from the file that holds them so; it is made when there is none.

    Raises:
        UserError: the images cannot be had.
    """
    key, items = _items(split)
    base = _folder() / hashlib.sha256(f"{key} {view} {ROUNDING}".encode()).hexdigest()
    index = base.with_suffix(".json")
    if not index.is_file():
        _build(f"{name} {split}", base, items(), _crop(view))
    found = json.loads(index.read_text(encoding="utf-8"))
    count, side = len(found["ids"]), view.side
    flat = torch.from_file(str(base.with_suffix(".u8")), shared=False, size=count * 3 * side * side, dtype=torch.uint8)
    labels = torch.tensor(found["labels"], dtype=torch.int64)
    return Dataset(name, split, flat.view(count, 3, side, side), labels, tuple(found["ids"]))


def _folder() -> Path:
    from zoo.hub.store import ENVIRONMENT as CACHE
    from zoo.hub.store import cache_root, ready

    folder = cache_root() / "images"
    ready(folder, f"set {CACHE} to another one")
    return folder


def _items(split: str) -> tuple[str, Callable[[], Iterator[Item]]]:
    """Return what identifies the images, and how to read them."""
    local = os.environ.get(ENVIRONMENT)
    if local:
        folder = Path(local).expanduser()
        inner = folder / ("train" if split == "train" else "val")
        if split == "train" or inner.is_dir():
            folder = inner
        if not folder.is_dir():
            raise UserError(f"{ENVIRONMENT} is {local}, but there is no folder {folder}")
        listing = [(str(p.relative_to(folder)), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]
        return json.dumps(listing), lambda: from_folder(folder)
    if split == "train":
        raise UserError(
            f"ImageNet's training images are read from a folder: set {ENVIRONMENT} to that which holds train and val "
            "(docs/setting-up.md)"
        )
    from zoo.data import hub

    return hub.SETS["imagenet"].revision, lambda: hub.items("imagenet", "test")


def _build(name: str, base: Path, items: Iterator[Item], prepare: Callable[[Any], Any]) -> None:
    """Prepare all images, several at a time, and write them one after another."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from zoo.hub.whole import replacing, write_whole

    ids: list[str] = []
    labels: list[int] = []
    sides: list[list[int]] = []
    target = base.with_suffix(".u8")
    try:
        bar = tqdm(desc=f"preparing {name}", disable=None)
        with bar, replacing(target) as file, ThreadPoolExecutor() as pool:
            while batch := list(islice(items, 256)):
                for image in pool.map(lambda item: decode(item, prepare=prepare), batch):
                    file.write(image.numpy().data)
                    sides.append(list(image.shape[1:]))
                ids += [item.id for item in batch]
                labels += [item.label for item in batch]
                bar.update(len(batch))
            if not ids:
                raise UserError(f"{name}: no images found")
            check_labels(name, labels, CLASSES)
    except OSError as error:
        raise UserError(f"{name}: cannot write {target} ({error}); ZOO_CACHE moves the cache") from error
    write_whole(base.with_suffix(".json"), json.dumps({"ids": ids, "labels": labels, "sides": sides}).encode())


def _resize(shorter: int, interpolation: str) -> Callable[[Any], Any]:
    """Return what torchvision's Resize does to an image of PIL, to the pixel: the longer side's fraction is cut off."""

    def apply(image: Any) -> Any:
        from PIL import Image

        small = min(image.size)
        return image.resize([int(shorter * side / small) for side in image.size], Image.Resampling[interpolation.upper()])

    return apply


def _crop(view: View) -> Callable[[Any], Any]:
    """Return what torchvision's Resize and CenterCrop do to an image of PIL, to the pixel: its roundings are theirs."""
    resize = _resize(view.resize, view.interpolation)

    def apply(image: Any) -> Any:
        image = resize(image)
        left, top = (round((length - view.side) / 2) for length in image.size)
        return image.crop((left, top, left + view.side, top + view.side))

    return apply
