"""Jobs to adversarial images: uint8, inside the ball, cached by content, a block at a time."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.runs.stage import Stage
from harness.runs.workspace import Context, Workspace, workspace_of
from harness.storage import shards
from harness.suites.selection import Job
from zoo.errors import MachineError, UserError
from zoo.kernels import fixed

GPU_PIXELS = 64 * 224 * 224
"""Pixels of all images in one pass on a GPU: 64 of ImageNet's, 3136 of CIFAR-10's."""

MEASURED = 256
"""Images whose distance from the clean ones is measured at a time."""


@dataclass(frozen=True)
class Crafted:
    """All images of one job."""

    images: Tensor
    """(N, C, H, W) uint8."""
    seconds: float
    """What making them took, whenever that was."""


def spans(count: int, block: int) -> list[tuple[int, int]]:
    """Return the half-open index ranges of the blocks that cover `count` images."""
    return [(start, min(start + block, count)) for start in range(0, count, block)]


def shard_path(context: Context, key: str, start: int, stop: int) -> Path:
    """Return the cache file of one block."""
    return context.cache_folder / "crafted" / key[:2] / key / f"{start:06d}-{stop:06d}.safetensors"


class CraftedBlock(NamedTuple):
    """The images of one block, as they travel between processes and machines."""

    start: int
    stop: int
    images: np.ndarray
    """(stop - start, C, H, W) uint8."""
    seconds: float


def make_blocks(context: Context, job: Job, key: str, blocks: tuple[tuple[int, int], ...]) -> list[CraftedBlock]:
    """Craft blocks of a job and hand them over; touches no cache, so it runs on any machine.

    Raises:
        MachineError: this machine would make other images than the one that asks for the images of `key`.
    """
    workspace = workspace_of(context)
    if workspace.craft_key(job.substitute, job.attack, job.seed) != key:
        raise MachineError(
            f"{platform.node()} would craft other images of {job.substitute} x {job.attack} than this machine: its code, "
            f"torch, data or weights are others; install the same versions on all nodes"
        )
    made = []
    for start, stop in blocks:
        began = time.perf_counter()
        images = _craft(workspace, job, start, stop).numpy()
        made.append(CraftedBlock(start, stop, images, time.perf_counter() - began))
    return made


def store_block(context: Context, key: str, made: CraftedBlock) -> None:
    """Write one block into the cache."""
    images = torch.from_numpy(np.array(made.images))
    shards.write(shard_path(context, key, made.start, made.stop), images, seconds=f"{made.seconds:.6f}")


def missing_blocks(context: Context, job: Job) -> list[tuple[int, int]]:
    """Return the blocks of a job that are not in the cache, or damaged there."""
    workspace = workspace_of(context)
    key = workspace.craft_key(job.substitute, job.attack, job.seed)
    blocks = spans(len(workspace.data), workspace.suite.block)
    return [block for block in blocks if shards.read(shard_path(context, key, *block)) is None]


def craft(context: Context, job: Job) -> Crafted:
    """Return all images of a job, crafting in this process what the cache lacks."""
    key = workspace_of(context).craft_key(job.substitute, job.attack, job.seed)
    for block in missing_blocks(context, job):
        for made in make_blocks(context, job, key, (block,)):
            store_block(context, key, made)
    return collect(context, job)


def _craft(workspace: Workspace, job: Job, start: int, stop: int) -> Tensor:
    from harness.attacks import Images, Rng
    from harness.substitutes import block_seed

    suite, data, device = workspace.suite, workspace.full, workspace.context.device
    index = torch.arange(start, start + suite.block).clamp(max=stop - 1)  # the last block is padded: kernels see one shape
    clean = data.images[index].to(device)
    x = clean.float() / 255
    rng = Rng(job.seed, index.tolist(), device)
    attack, substitute = workspace.attack(job.attack), workspace.substitute(job.substitute)
    with fixed(device, workspace.context.precision), substitute.session(block_seed(job.seed, start)):
        adv = attack(
            substitute,
            x,
            data.labels[index].to(device),
            eps=suite.budget.eps,
            steps=suite.steps,
            rng=rng,
            pool=Images(data.images, data.labels),
            chunk=images_per_pass(x, suite.block),
        )
    made = to_bytes(adv, clean, suite.budget.levels)[: stop - start]
    if suite.budget.patch is not None:
        _check_area(made, clean[: stop - start], suite.budget.patch)
    return made.cpu()


def images_per_pass(x: Tensor, block: int) -> int:
    """Return how many images, copies counted, pass through a substitute together.

    A CPU gains nothing from more than a block: copies go one by one. A GPU idles on a block of small images.
    """
    return block if x.device.type == "cpu" else max(block, GPU_PIXELS // (x.shape[-1] * x.shape[-2]))


def to_bytes(adv: Tensor, clean: Tensor, levels: int) -> Tensor:
    """Round adversarial images in [0, 1] to bytes and project them into the ball around the clean bytes.

    adv, clean: (N, C, H, W) float and uint8. An attack may stray from the ball by a rounding; the bytes never do.

    Raises:
        UserError: the attack returned another shape, or values that are not finite.
    """
    if adv.shape != clean.shape:
        raise UserError(f"the attack returned images of shape {tuple(adv.shape)} for {tuple(clean.shape)}; return one per input")
    if not torch.isfinite(adv).all():
        raise UserError("the attack returned values that are not finite; check its gradients for a division by zero")
    x = clean.to(torch.int16)
    rounded = (adv.detach() * 255).round().to(torch.int16)
    return torch.minimum(torch.maximum(rounded, x - levels), x + levels).clamp(0, 255).to(torch.uint8)


def _check_area(adv: Tensor, clean: Tensor, patch: float) -> None:
    """Raise UserError where more than that share of an image's pixels changed; a pixel is one place in all channels."""
    share = float((adv != clean).any(1).float().mean((1, 2)).max())
    if share > patch:
        raise UserError(f"an image changed in {share:.1%} of its pixels, the budget's patch is {patch:.1%}")


def max_level(adv: Tensor, clean: Tensor) -> int:
    """Return the largest |adv - clean| over all bytes, in 1/255 steps."""
    pairs = zip(torch.split(adv, MEASURED), torch.split(clean, MEASURED), strict=True)  # never a copy of all
    return max((int((torch.maximum(a, b) - torch.minimum(a, b)).max()) for a, b in pairs if a.numel()), default=0)


def collect(context: Context, job: Job) -> Crafted:
    """Read all blocks of a job and check the budget on the bytes.

    Raises:
        MachineError: a block is missing or damaged.
        ValueError: an image lies outside the ball, which no path through `to_bytes` can produce.
    """
    workspace = workspace_of(context)
    key = workspace.craft_key(job.substitute, job.attack, job.seed)
    parts, seconds = [], 0.0
    for start, stop in spans(len(workspace.data), workspace.suite.block):
        shard = shards.read(shard_path(context, key, start, stop))
        if shard is None:
            raise MachineError(f"images {start} to {stop - 1} of {job} vanished from {context.cache_folder}; run again")
        parts.append(shard[0])
        seconds += float(shard[1]["seconds"])
    images = torch.cat(parts)
    level = max_level(images, workspace.data.images)
    if level > workspace.suite.budget.levels:
        raise ValueError(f"{job}: an image differs by {level} levels, the budget is {workspace.suite.budget.levels}")
    return Crafted(images, seconds)


def craft_job(stage: Stage, title: str, job: Job) -> Crafted:
    """Have the blocks crafted that the cache lacks, keep each as it comes, and return all images.

    Raises:
        UserError: a block cannot be crafted; the blocks after it are not tried.
    """
    context = stage.context
    key = workspace_of(context).craft_key(job.substitute, job.attack, job.seed)
    blocks = missing_blocks(context, job)
    tasks = [(block,) for block in blocks]  # one each: what a worker holds is lost when it is killed
    for done, (_, result) in enumerate(stage.executor.run(partial(make_blocks, context, job, key), tasks), 1):
        if isinstance(result, UserError):
            raise result
        for made in result:
            store_block(context, key, made)
        stage.notify(title, done, len(blocks))
    return collect(context, job)
