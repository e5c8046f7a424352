"""Adversarial images from outside: parsed without trust, held against the clean ones, byte by byte."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.sandbox import printable
from harness.submit.bundle import no_duplicates
from harness.submit.record import read_plain, refuse_link
from zoo.errors import UserError

MAX_HEADER = 4 * 2**20
MAX_BRACKETS = 64
"""Opening brackets of a header; one tensor with metadata takes five. Objects take a hundred times the memory of their text."""
KEY = "images"
PLAIN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")
_TYPES: dict[str, tuple[type[np.generic], torch.dtype]] = {"U8": (np.uint8, torch.uint8), "F32": (np.float32, torch.float32)}


def parse(data: bytes, kind: str, shape: Sequence[int], where: str) -> tuple[Tensor, dict[str, str]]:
    """Return the one tensor of a safetensors file and its metadata.

    Args:
        data: The file's bytes.
        kind: "U8" or "F32": what it must hold.
        shape: The shape that it must have.
        where: What the message calls it.

    Raises:
        UserError: it is something else; the message says what was found.
    """
    wanted = tuple(shape)
    header = _header(data, where)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError(f"{where}: its metadata is not text")
    entry = header.get(KEY)
    if list(header) != [KEY] or not isinstance(entry, dict):
        found = ", ".join(sorted(map(str, header)))[:200] or "none"
        raise UserError(f"{where}: expected one tensor called {KEY!r}, found {found}")
    if entry.get("dtype") != kind:
        raise UserError(f"{where}: the images are {str(entry.get('dtype'))[:20]}, they must be {kind} ({_TYPES[kind][1]})")
    if entry.get("shape") != list(wanted):
        raise UserError(f"{where}: the images are {str(entry.get('shape'))[:80]}, they must be {list(wanted)} as (N, C, H, W)")
    start = 8 + struct.unpack("<Q", data[:8])[0]
    size = int(np.prod(wanted)) * np.dtype(_TYPES[kind][0]).itemsize
    if entry.get("data_offsets") != [0, size] or len(data) != start + size:
        raise UserError(f"{where}: holds {len(data) - start} bytes of images where {size} belong; it is cut short or padded")
    array = np.frombuffer(data, dtype=_TYPES[kind][0], offset=start).reshape(wanted)
    return torch.from_numpy(array.copy()), metadata


def _header(data: bytes, where: str) -> dict[str, object]:
    if data[:4] == b"PK\x03\x04" or data[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise UserError(f"{where}: a pickle (torch.save), which could run code when read; save it with safetensors")
    if len(data) < 8:
        raise UserError(f"{where}: no safetensors file, it has {len(data)} bytes")
    length = struct.unpack("<Q", data[:8])[0]
    if length > min(MAX_HEADER, len(data) - 8):
        raise UserError(f"{where}: no safetensors file, or one that is cut short (its header would take {length} bytes)")
    if sum(data.count(mark, 8, 8 + length) for mark in (b"{", b"[")) > MAX_BRACKETS:
        raise UserError(f"{where}: no safetensors file of one tensor (its header nests too much)")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no safetensors file (its header: {str(error)[:100]})") from error
    if not isinstance(header, dict):
        raise UserError(f"{where}: no safetensors file (its header is no object)")
    return header


def read_part(data: bytes, clean: Tensor, ids: Sequence[str], where: str) -> Tensor:
    """Return submitted uint8 images (N, C, H, W); their metadata must list the ids of the suite's images in its order.

    Raises:
        UserError: they are not images of this suite, or stand in another order.
    """
    images, metadata = parse(data, "U8", tuple(clean.shape), where)
    if "ids" not in metadata:
        raise UserError(f"{where}: its metadata lacks `ids`, the suite's image ids, one per line, which tell the order")
    check_ids(metadata["ids"].split("\n"), ids, where)
    return images


def check_ids(found: Sequence[str], ids: Sequence[str], where: str) -> None:
    """Refuse ids that are not the suite's, in its order.

    Raises:
        UserError: one is twice, missing, foreign or misplaced.
    """
    seen: set[str] = set()
    for name in found:
        if name in seen:
            raise UserError(f"{where}: image {ascii(name)[:80]} occurs twice; there must be one for each of the suite's")
        seen.add(name)
    known = set(ids)
    missing = [i for i in ids if i not in seen]
    foreign = [i for i in found if i not in known]
    if foreign or missing:
        what = f"{ascii(foreign[0])[:80]} is no image of this suite" if foreign else f"image {missing[0]!r} is missing"
        raise UserError(f"{where}: {what} ({len(missing)} missing, {len(foreign)} foreign)")
    if list(found) != list(ids):
        place = next(n for n, (a, b) in enumerate(zip(found, ids, strict=True)) if a != b)
        raise UserError(f"{where}: image {place} is {ascii(found[place])[:80]} where {ids[place]!r} belongs; keep its order")


def read_pngs(folder: Path, clean: Tensor, ids: Sequence[str]) -> Tensor:
    """Return the uint8 images (N, C, H, W) of a folder with one PNG for each of the suite's images, called ID.png.

    Raises:
        UserError: a file is missing, foreign, a link, or not the plain PNG that it must be.
    """
    bad = next((i for i in ids if not PLAIN_ID.fullmatch(i)), None)
    if bad is not None:
        raise UserError(f"the ids of this suite's images ({bad!r}) are no file names; submit safetensors files")
    names = sorted(os.listdir(folder))  # noqa: PTH208 - names as they are, before any of them becomes a path
    if len(names) > 2 * len(ids) + 10:
        raise UserError(f"{folder} holds {len(names)} files, more than there are images")
    lowered: set[str] = set()
    for name in names:
        if name.casefold() in lowered:
            raise UserError(f"{folder}: image {ascii(name)[:80]} occurs twice; there must be one for each of the suite's")
        lowered.add(name.casefold())
    for name in names:
        refuse_link(folder / name)
        if not name.endswith(".png"):
            raise UserError(f"{folder}: {ascii(name)[:80]} has no place among the images, which are called ID.png")
    found = {n.removesuffix(".png") for n in names}
    check_ids([*[i for i in ids if i in found], *sorted(found - set(ids))], ids, str(folder))
    _, channels, height, width = clean.shape
    limit = 4 * channels * height * width + 64 * 1024
    return torch.stack([_png(read_plain(folder / f"{i}.png", limit), channels, height, width, folder / f"{i}.png") for i in ids])


def _png(data: bytes, channels: int, height: int, width: int, path: Path) -> Tensor:
    """Decode a PNG whose header promises the right size and type; nothing else is unpacked."""
    from PIL import Image, UnidentifiedImageError

    mode = {1: "L", 3: "RGB"}.get(channels, "RGBA")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.size != (width, height):
                    raise UserError(f"{path}: it is {image.size[0]}x{image.size[1]} pixels, it must be {width}x{height}")
                if image.mode != mode or getattr(image, "n_frames", 1) != 1:
                    raise UserError(f"{path}: it is of mode {image.mode}, it must be one {mode} image of 8 bits")
                array = np.asarray(image)
    except UserError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, NotImplementedError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: not a whole PNG ({printable(' '.join(str(error).split()))[:120]})") from error
    except Exception as error:  # a decoder fails in whatever way a chunk makes it fail
        raise UserError(f"{path}: not a whole PNG ({type(error).__name__})") from error
    return torch.from_numpy(array.reshape(height, width, channels).copy()).permute(2, 0, 1)


def to_bytes(adv: Tensor, clean: Tensor, levels: int, ids: Sequence[str], where: str) -> Tensor:
    """Round float images in [0, 1] to bytes; unlike the harness's own attacks, nothing is projected back into the ball.

    Raises:
        UserError: values that are not finite, out of [0, 1], or out of the ball.
    """
    if not torch.isfinite(adv).all():
        raise UserError(f"{where}: it returned values that are not finite; check its gradients for a division by zero")
    low, high = float(adv.min()), float(adv.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise UserError(f"{where}: it returned values from {low:.4g} to {high:.4g}; images lie in [0, 1]")
    rounded = (adv * 255).round().clamp(0, 255).to(torch.uint8)
    check_ball(rounded, clean, levels, ids, where)
    return rounded


def check_ball(adv: Tensor, clean: Tensor, levels: int, ids: Sequence[str], where: str) -> None:
    """Refuse bytes outside the ball around the clean bytes, and say which image it is.

    Raises:
        UserError: an image differs by more than the budget; when it is another image's, the message says so.
    """
    distance = _distance(adv, clean)
    worst = int(distance.argmax())
    if int(distance[worst]) <= levels:
        return
    message = f"{where}: image {ids[worst]!r} differs from the clean one by {int(distance[worst])} levels, the budget is {levels}"
    nearest = _distance(adv[worst].expand_as(clean), clean)
    if int(nearest.min()) <= levels:
        raise UserError(f"{message}; it is one of {ids[int(nearest.argmin())]!r}: the images are not in the suite's order")
    raise UserError(f"{message}; project onto the ball before you round")


def check_attacked(adv: Tensor, clean: Tensor, where: str) -> None:
    """Refuse images that are the clean ones.

    Raises:
        UserError: nothing was changed.
    """
    if torch.equal(adv, clean):
        raise UserError(f"{where}: the images are the clean ones; an attack changes something")


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.to(torch.int16) - b.to(torch.int16)).abs().flatten(1).amax(1)
