"""Images and labels out of parquet files, zip archives, and folders with a CSV file. Nothing is ever unpacked to disk."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import Dataset
from zoo.errors import UserError

MAX_IMAGE_BYTES = 50_000_000
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LABEL_COLUMNS = {"label": 0, "fine_label": 0, "truelabel": 1}
"""Columns that hold labels, by lower-case name, with the label of the first class: `TrueLabel` (NIPS 2017) counts from 1."""
NAME_COLUMNS = ("filename", "imageid", "image_id", "image", "file", "path")


@dataclass(frozen=True)
class Item:
    """One encoded image."""

    id: str
    content: bytes
    label: int


def assemble(name: str, split: str, items: Iterable[Item], classes: int | None = None, side: int | None = None) -> Dataset:
    """Decode images into a data set; with `side`, images of another size are resized to it (bilinear).

    Raises:
        UserError: no images, images of several sizes, images that cannot be decoded, or labels that are not 0-based.
    """
    pixels: list[Tensor] = []
    labels: list[int] = []
    ids: list[str] = []
    for item, image in _decoded(iter(items), side):
        if pixels and image.shape != pixels[0].shape:
            raise UserError(
                f"{name}: {item.id} is {_size(image)}, {ids[0]} is {_size(pixels[0])}; all images of a set need one size"
            )
        pixels.append(image)
        labels.append(item.label)
        ids.append(item.id)
    if not pixels:
        raise UserError(f"{name}: no images found for the split {split!r}")
    check_labels(name, labels, classes)
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"{name}: two images are called {twice!r}; ids must be unique")
    return Dataset(name, split, torch.stack(pixels), torch.tensor(labels, dtype=torch.int64), tuple(ids))


def _decoded(items: Iterator[Item], side: int | None) -> Iterator[tuple[Item, Tensor]]:
    """Decode several images at a time, in order."""
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(items, 256)):
            yield from zip(batch, pool.map(partial(decode, side=side), batch), strict=True)


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape[1:]))


def decode(item: Item, side: int | None = None, prepare: Callable[[Any], Any] | None = None) -> Tensor:
    """Return an image as uint8 (3, H, W)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(item.content)) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{item.id}: not an image that can be decoded ({error})") from error
    if prepare is not None:
        image = prepare(image)
    if side is not None and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image, dtype=np.uint8).copy()).permute(2, 0, 1).contiguous()


def check_labels(name: str, labels: list[int], classes: int | None) -> None:
    """Refuse labels that are negative, too large, or that count from one."""
    low, high = min(labels), max(labels)
    if low < 0 or (classes is not None and high > classes):
        raise UserError(f"{name}: labels run from {low} to {high}; {classes or 'the'} classes are counted 0, 1, 2, ...")
    if classes is not None and high == classes:
        raise UserError(
            f"{name}: the label {high} does not exist among {classes} classes: the labels count from 1; subtract 1, or call "
            "their column TrueLabel"
        )


def from_parquet(paths: Iterable[Path], prefix: str) -> Iterator[Item]:
    """Yield the rows of parquet files whose columns are an image (bytes, or {bytes, path}) and a label.

    Images are named by their place, `prefix-00000`, since the paths in such files are often null.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    place = 0
    for path in paths:
        try:
            file = parquet.ParquetFile(path)
            image, label = _columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=256, columns=[image, label]):
                for row in batch.to_pylist():
                    found = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
                    yield Item(f"{prefix}-{place:05d}", found, int(row[label]))
                    place += 1
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: not a parquet file that can be read ({error})") from error


def _columns(path: Path, names: list[str]) -> tuple[str, str]:
    image = next((n for n in names if n in ("img", "image")), None)
    label = next((n for n in names if n in ("label", "fine_label")), None)
    if image is None or label is None:
        raise UserError(f"{path}: expected the columns image (or img) and label (or fine_label), found {', '.join(names)}")
    return image, label


def from_zip(path: Path) -> Iterator[Item]:
    """Yield the images that the one CSV file in a zip archive names, in its order."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename: i for i in archive.infolist() if not i.is_dir() and "__MACOSX" not in i.filename}
            tables = [n for n in members if n.lower().endswith(".csv")]
            if len(tables) != 1:
                raise UserError(f"{path}: expected one CSV file with the labels, found {len(tables)}")
            by_name = {n.rsplit("/", 1)[-1]: i for n, i in members.items() if n.lower().endswith(SUFFIXES)}
            text = archive.read(tables[0]).decode("utf-8-sig")
            for name, label in read_labels(text, f"{path}:{tables[0]}"):
                member = _member(by_name, name)
                if member is None:
                    raise UserError(f"{path}: {tables[0]} names {name!r}, which is not in the archive")
                if member.file_size > MAX_IMAGE_BYTES:
                    raise UserError(f"{path}: {member.filename} unpacks to {member.file_size} bytes, too large for an image")
                yield Item(_stem(name), archive.read(member), label)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a zip archive that can be read ({error})") from error


def from_folder(folder: Path, table: Path | None = None) -> Iterator[Item]:
    """Yield the images of a folder: those that its CSV file names, or those of its class folders, sorted by name.

    Raises:
        UserError: the folder has neither, or the CSV names what is not there or lies outside.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    tables = [table] if table else sorted(folder.glob("*.csv"))
    if len(tables) > 1:
        raise UserError(f"{folder}: has {len(tables)} CSV files; leave one, with the labels")
    if tables:
        yield from _tabled(folder, tables[0])
        return
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise UserError(f"{folder}: needs a CSV file with the columns filename and label, or one folder for each class")
    for label, place in enumerate(classes):
        for path in sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES):
            yield Item(f"{place.name}/{path.stem}", path.read_bytes(), label)


def _tabled(folder: Path, table: Path) -> Iterator[Item]:
    root = folder.resolve()
    for name, label in read_labels(table.read_text(encoding="utf-8-sig"), str(table)):
        candidates = [c for c in (folder / name, folder / "images" / name) for c in (c, c.with_name(f"{c.name}.png"))]
        path = next((c for c in candidates if c.is_file() and c.resolve().is_relative_to(root)), None)
        if path is None:
            raise UserError(f"{table}: names {name!r}, which is not an image in {folder} or its folder images")
        yield Item(_stem(name), path.read_bytes(), label)


def read_labels(text: str, where: str) -> list[tuple[str, int]]:
    """Return file names and 0-based labels of a CSV text with a header.

    A column `label` counts from 0; `TrueLabel`, as in the NIPS 2017 sets, counts from 1 and is shifted.
    """
    rows = csv.DictReader(io.StringIO(text))
    by_lower = {(name or "").strip().lower(): name for name in rows.fieldnames or []}
    name_column = next((by_lower[n] for n in NAME_COLUMNS if n in by_lower), None)
    label_column = next((n for n in LABEL_COLUMNS if n in by_lower), None)
    if name_column is None or label_column is None:
        raise UserError(f"{where}: expected columns filename and label (or ImageId and TrueLabel), found {', '.join(by_lower)}")
    found: list[tuple[str, int]] = []
    for line, row in enumerate(rows, start=2):
        try:
            found.append((row[name_column].strip(), int(row[by_lower[label_column]]) - LABEL_COLUMNS[label_column]))
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where}: line {line}: expected a file name and a whole number as label") from error
    return found


def _member(by_name: dict[str, zipfile.ZipInfo], name: str) -> zipfile.ZipInfo | None:
    base = name.rsplit("/", 1)[-1]
    return by_name.get(base) or by_name.get(f"{base}.png")


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0] if name.lower().endswith(SUFFIXES) else name
