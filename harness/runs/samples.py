"""Strips of a few images of each row, beside its board: cut from images whose digest is the row's, so that they are its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from harness.board.site.viewer import CLEAN, FOLDER, INDEX, Samples, strip_name, to_png
from harness.records.pinned import PinnedSuite
from harness.records.rows import Row, read_rows
from harness.runs.craft import craft
from harness.runs.reproduce import checked_job
from harness.runs.workspace import Context, Workspace, forget, workspace_of
from harness.storage import shards
from harness.storage.files import atomic_write
from harness.storage.lock import cache_in_use
from zoo.errors import UserError


@dataclass
class Sampled:
    """What was cut."""

    folder: Path
    written: list[str] = field(default_factory=list)
    """Names of the rows."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Per row without a strip, the reason."""


def sample(
    folder: Path,
    count: int = 12,
    device: str = "cpu",
    overlays: tuple[str, ...] = (),
    attacks: Iterable[str] = (),
    substitutes: Iterable[str] = (),
) -> Sampled:
    """Cut strips of `count` images, spread evenly over the suite, for the rows of a leaderboard folder.

    Images come from the cache of the run, or are crafted again. A row whose images do not come out with the digest that it
    names gets none. Strips of other rows stay when they show the same images.

    Raises:
        UserError: the suite's images are not what this machine has.
    """
    pinned = PinnedSuite.read(folder)
    made, place = Sampled(folder / FOLDER), folder / FOLDER
    attacks, substitutes = tuple(attacks), tuple(substitutes)
    forget()
    limit = next((row.limit for row in read_rows(folder)), None)
    context = Context(pinned.suite, overlays, device, limit)
    here = workspace_of(context)
    if here.digest != pinned.data_sha256:
        raise UserError(f"the images of {pinned.name} are not on this machine as the board had them; its strips cannot be cut")
    clean = here.data.images
    indices = _spread(len(clean), count)
    strips = _kept(place, pinned, indices)
    with cache_in_use(context.cache_folder):
        for row in read_rows(folder):
            if (attacks and row.attack not in attacks) or (substitutes and row.substitute not in substitutes):
                continue
            try:
                images = _images(here, row, pinned)
            except UserError as error:
                made.left_out[row.filename] = str(error)
                continue
            atomic_write(place / strip_name(row.filename), to_png(_cut(images, indices)))
            strips[row.filename] = row.images_sha256
            made.written.append(row.filename)
    channels, height, width = clean.shape[1:]
    atomic_write(place / CLEAN, to_png(_cut(clean, indices)))
    samples = Samples(suite_digest=pinned.digest, indices=tuple(indices), shape=(channels, height, width), strips=strips)
    atomic_write(place / INDEX, samples.model_dump_json(indent=1) + "\n")
    return made


def _spread(total: int, count: int) -> list[int]:
    """Return up to `count` places spread evenly over `total`, in order."""
    return sorted({int(place) for place in np.linspace(0, total - 1, min(count, total))})


def _cut(images: Tensor, indices: list[int]) -> np.ndarray:
    return images[indices].cpu().numpy()


def _kept(place: Path, pinned: PinnedSuite, indices: list[int]) -> dict[str, str]:
    """Return the strips that are there and show the same images of the same suite."""
    path = place / INDEX
    if not path.is_file():
        return {}
    known = Samples.model_validate_json(path.read_bytes())
    same = known.suite_digest == pinned.digest and known.indices == tuple(indices)
    return dict(known.strips) if same else {}


def _images(here: Workspace, row: Row, pinned: PinnedSuite) -> Tensor:
    """Return all images of a row, (N, C, H, W) uint8.

    Raises:
        UserError: they cannot be made here, or come out otherwise.
    """
    if row.submission is not None:
        raise UserError("its images came from its submission and are not kept here")
    images = craft(here.context, checked_job(here, row, pinned)).images
    if shards.digest(images) != row.images_sha256:
        raise UserError("crafting it here gives other bytes than the row names")
    return images
