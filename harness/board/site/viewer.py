"""Images of rows for the site: strips of a few clean and adversarial images that lie beside a board, proven to be the row's.

`harness samples` writes them (`harness.runs.samples`); here they are read, and the difference is drawn large.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.storage.files import read_record
from zoo.errors import UserError
from zoo.registry.entry import Record, Sha256

FOLDER = "samples"
INDEX = "index.json"
CLEAN = "clean.png"
Pixels = NDArray[np.uint8]


class Samples(Record):
    """Which images of a board its strips show."""

    schema_version: int = Field(default=1, ge=1, le=1)
    """Version of this layout."""
    suite_digest: Sha256
    """Digest of the suite whose images these are."""
    indices: tuple[int, ...] = Field(min_length=1)
    """Places of the images in the suite."""
    shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    strips: dict[str, Sha256]
    """File name of a row -> digest of all the images of that row, which the strip was cut from."""


def strip_name(filename: str) -> str:
    """Return the name of a row's strip, given the name of its file."""
    return filename.removesuffix(".json") + ".png"


def read(folder: Path) -> Samples | None:
    """Return what the strips of a board show; None when it has none."""
    path = folder / FOLDER / INDEX
    return read_record(path, Samples, "make it again with: harness samples") if path.is_file() else None


def to_png(images: Pixels) -> bytes:
    """Return uint8 images (N, C, H, W) side by side as one PNG, which loses nothing."""
    from PIL import Image

    n, channels, height, width = images.shape
    flat = images.transpose(2, 0, 3, 1).reshape(height, n * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(flat[..., 0] if channels == 1 else flat).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def from_png(path: Path, samples: Samples) -> Pixels:
    """Read a strip back as uint8 images (N, C, H, W).

    Raises:
        UserError: the file is no strip of that many images of that size.
    """
    from PIL import Image, UnidentifiedImageError

    channels, height, width = samples.shape
    count = len(samples.indices)
    try:
        with Image.open(path) as picture:
            flat = np.asarray(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); make it again with: harness samples") from error
    if flat.size != channels * height * width * count:
        raise UserError(f"{path} does not hold {count} images of {channels} x {height} x {width}; make it again: harness samples")
    return np.ascontiguousarray(flat.reshape(height, count, width, channels).transpose(1, 3, 0, 2))


def amplified(clean: Pixels, adv: Pixels, levels: int) -> Pixels:
    """Return adv - clean as images: mid-grey where nothing changed, black and white where the budget is used up."""
    difference = adv.astype(np.float64) - clean.astype(np.float64)
    shown: Pixels = np.clip(np.round(127.5 + 127.5 * difference / levels), 0, 255).astype(np.uint8)
    return shown
