"""Adversarial images as PNG files, one each: the bytes that targets are scored on, since PNG loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

from harness.board.site.viewer import to_png
from harness.runs.craft import collect, make_blocks, missing_blocks, store_block
from harness.runs.stage import Notify
from harness.runs.workspace import forget, open_workspace
from harness.storage import shards
from harness.storage.files import atomic_write
from harness.storage.lock import cache_in_use
from harness.suites.selection import Job, Selection
from harness.suites.suite import Suite
from zoo.devices import check_device
from zoo.errors import UserError

INDEX = "images.json"


def write_pngs(
    suite: Suite,
    job: Job,
    out: Path,
    *,
    limit: int | None = None,
    device: str = "cpu",
    overlays: tuple[str, ...] = (),
    notify: Notify | None = None,
) -> list[Path]:
    """Write the images of one substitute, attack and seed into a folder, and beside them which image each one was.

    They come from the cache of runs, or are crafted into it. A file is named by its place in the suite and its true class.

    Raises:
        UserError: unknown names, weights or images that cannot be had, or a folder that cannot be written or holds others.
    """
    asked = Selection((job.attack,), (job.substitute,), (), (job.seed,))
    selection, suite = asked.bring(suite)
    [job] = selection.jobs(suite)
    check_device(device)
    forget()
    workspace = open_workspace(suite, limit, device, overlays)
    context, data = workspace.context, workspace.data
    if out.is_dir() and any(out.iterdir()) and not (out / INDEX).is_file():
        raise UserError(f"{out} holds files that are no adversarial images; name an empty or a new folder with --out")
    with cache_in_use(context.cache_folder):
        blocks = missing_blocks(context, job)
        for done, block in enumerate(blocks, 1):
            key = workspace.craft_key(job.substitute, job.attack, job.seed)
            for made in make_blocks(context, job, key, (block,)):
                store_block(context, key, made)
            if notify is not None:
                notify("crafting", done, len(blocks))
        images = collect(context, job).images
    digits, labels = len(str(len(images) - 1)), data.labels.tolist()
    names = [f"{place:0{digits}d}-class{label}.png" for place, label in enumerate(labels)]
    for old in out.glob("*-class*.png"):
        old.unlink()
    for name, image in zip(names, images, strict=True):
        atomic_write(out / name, to_png(image[None].numpy()))
    facts = {"suite": suite.name, "version": suite.version, "substitute": job.substitute, "attack": job.attack, "seed": job.seed}
    about = {**facts, "composition": repr(workspace.attack(job.attack)), "sha256": shards.digest(images), "eps": suite.budget.eps}
    listed = [{"file": f, "id": i, "label": y} for f, i, y in zip(names, data.ids, labels, strict=True)]
    atomic_write(out / INDEX, json.dumps({**about, "images": listed}, indent=1) + "\n")
    return [out / name for name in names]
