"""ImageNet's validation images, resized and cropped once into a file that is mapped, since 50,000 do not fit in memory.

They come from the folder that $ZOO_IMAGENET names (one folder for each class, or a CSV file), or else from the gated
repository on the Hub, with the user's token.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from zoo.data import Dataset
from zoo.data.images import Item, check_labels, decode, from_folder
from zoo.errors import UserError

ENVIRONMENT = "ZOO_IMAGENET"
CLASSES = 1000
CROP = 0.875
VIEWS = {"imagenet": (224, "bilinear"), "imagenet-299": (299, "bicubic")}
"""Names of the two views: side of the crop and interpolation. Both keep the middle 7/8 of the shorter side."""


@lru_cache(maxsize=2)
def load(name: str, split: str) -> Dataset:
    """Return the validation images (split `test`) in one view: (N, 3, side, side).

    Raises:
        UserError: another split is asked for, or the images cannot be had.
    """
    if split != "test":
        raise UserError(f"data set {name!r} has the split 'test' (the validation images) only, not {split!r}")
    side, interpolation = VIEWS[name]
    key, items = _items()
    base = _folder() / hashlib.sha256(f"{key} {side} {interpolation} {CROP}".encode()).hexdigest()
    index = base.with_suffix(".json")
    if not index.is_file():
        _build(name, base, items(), _crop(side, interpolation))
    found = json.loads(index.read_text(encoding="utf-8"))
    count = len(found["ids"])
    flat = torch.from_file(str(base.with_suffix(".u8")), shared=False, size=count * 3 * side * side, dtype=torch.uint8)
    labels = torch.tensor(found["labels"], dtype=torch.int64)
    return Dataset(name, split, flat.view(count, 3, side, side), labels, tuple(found["ids"]))


def _folder() -> Path:
    from zoo.hub import default_folder

    folder = default_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _items() -> tuple[str, Callable[[], Iterator[Item]]]:
    """Return what identifies the images, and how to read them."""
    local = os.environ.get(ENVIRONMENT)
    if local:
        folder = Path(local).expanduser()
        folder = folder / "val" if (folder / "val").is_dir() else folder
        if not folder.is_dir():
            raise UserError(f"${ENVIRONMENT} names {folder}, which is no folder")
        listing = [(str(p.relative_to(folder)), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]
        return json.dumps(listing), lambda: from_folder(folder)
    from zoo.data import hub

    return hub.SETS["imagenet"].revision, lambda: hub.items("imagenet", "test")


def _build(name: str, base: Path, items: Iterator[Item], crop: Callable[[Any], Any]) -> None:
    from tqdm import tqdm

    ids: list[str] = []
    labels: list[int] = []
    part = base.with_suffix(f".part{os.getpid()}")
    try:
        with part.open("wb") as file:
            for item in tqdm(items, desc=f"preparing {name}", unit=" images", disable=None):
                file.write(decode(item, prepare=crop).numpy().tobytes())
                ids.append(item.id)
                labels.append(item.label)
        if not ids:
            raise UserError(f"{name}: no images found")
        check_labels(name, labels, CLASSES)
        part.replace(base.with_suffix(".u8"))
    finally:
        part.unlink(missing_ok=True)
    from zoo.hub.cache import write_atomically

    write_atomically(base.with_suffix(".json"), json.dumps({"ids": ids, "labels": labels}).encode())


def _crop(side: int, interpolation: str) -> Callable[[Any], Any]:
    """Return the usual evaluation transform: resize the shorter side to side / 0.875, take the middle."""

    def apply(image: Any) -> Any:
        from PIL import Image

        method = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
        scale = int(side / CROP) / min(image.size)
        image = image.resize([max(side, round(length * scale)) for length in image.size], method)
        left, top = ((length - side) // 2 for length in image.size)
        return image.crop((left, top, left + side, top + side))

    return apply
