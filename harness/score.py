"""Images x targets to predictions, exactly as the target sees the bytes."""

from __future__ import annotations

import io
import platform
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness import shards
from harness.craft import collect
from harness.kernels import at_speed, fixed
from harness.selection import Job
from harness.workbench import Context, workbench
from zoo.errors import MachineError
from zoo.quant import frozen

BATCH = 50
"""Images that a target sees at once; fixed, as float kernels differ in their last bits between batch sizes."""


def transported(images: Tensor, transport: str) -> Tensor:
    """Return uint8 images (N, C, H, W) as they arrive: unchanged, or through JPEG at quality 75 (the released code's files)."""
    if transport == "lossless":
        return images
    from PIL import Image

    out = []
    for image in images.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=75)
        out.append(np.asarray(Image.open(buffer)).reshape(image.shape))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, device: str) -> Tensor:
    """Return the predicted classes (N,) int16 of uint8 images, in padded batches of a fixed size."""
    out = []
    with fixed(device), frozen(model), at_speed(model) as layout:
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            padded = torch.cat([batch, batch[-1:].expand(BATCH - len(batch), *batch.shape[1:])])
            pixels = (padded.to(device).float() / 255).to(memory_format=layout)
            out.append(model(pixels).argmax(1)[: len(batch)])
    return torch.cat(out).to(torch.int16).cpu()


def predictions(context: Context, job: Job | None, images: np.ndarray | None, task: tuple[str, str]) -> np.ndarray:
    """Return what a target predicts (N,) int16; touches no cache but to read, so it runs on any machine.

    `task` is a target and its identity (`zoo.build.identity`). `images` are the job's bytes; None takes them from the cache
    that this process shares with the one that asks, or the clean images when `job` is None.

    Raises:
        MachineError: the target is another one on this machine.
    """
    target, identity = task
    bench = workbench(context)
    if bench.identity(target) != identity:
        raise MachineError(
            f"{platform.node()} has another {target} than this machine: pull the same weights and registry there"
        )
    if images is not None:
        pixels = torch.from_numpy(np.array(images))
    else:
        pixels = bench.data.images if job is None else collect(context, job).images
    return predict(bench.target(target), transported(pixels, bench.suite.transport), context.device).numpy()


def score(context: Context, job: Job | None, target: str) -> Tensor:
    """Return a target's predictions on a job's images, or on the clean images when `job` is None; cached by content."""
    path, task = score_path(context, job, target), (target, workbench(context).identity(target))
    known = shards.read(path)
    if known is not None:
        return known[0]
    found = torch.from_numpy(predictions(context, job, None, task))
    shards.write(path, found)
    return found


def score_path(context: Context, job: Job | None, target: str) -> Path:
    """Return the cache file of one target's predictions on a job's images, or on the clean ones when `job` is None."""
    bench = workbench(context)
    key = bench.digest if job is None else bench.craft_key(job.substitute, job.attack, job.seed)
    return (
        context.cache_folder / "scores" / key[:2] / key / f"{len(bench.data):06d}-{bench.score_key(target)}.safetensors"
    )
