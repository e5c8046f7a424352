"""Images x targets to predictions, exactly as the target sees the bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness import shards
from harness.craft import Job, collect
from harness.workbench import Context, workbench

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
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        padded = torch.cat([batch, batch[-1:].expand(BATCH - len(batch), *batch.shape[1:])])
        out.append(model(padded.to(device).float() / 255).argmax(1)[: len(batch)].cpu())
    return torch.cat(out).to(torch.int16)


def score(context: Context, job: Job | None, target: str) -> Tensor:
    """Return a target's predictions on a job's images, or on the clean images when `job` is None; cached by content."""
    bench = workbench(context)
    if job is None:
        images, key = bench.data.images, bench.data.digest
    else:
        images, key = collect(context, job).images, bench.craft_key(job.substitute, job.attack, job.seed)
    path = score_path(context, key, len(images), bench.sha256(target), bench.suite.transport)
    known = shards.read(path)
    if known is not None:
        return known[0]
    found = predict(bench.target(target), transported(images, bench.suite.transport), context.device)
    shards.write(path, found)
    return found


def score_path(context: Context, key: str, count: int, weights: str, transport: str) -> Path:
    """Return the cache file of one target's predictions on `count` images."""
    device = torch.device(context.device).type
    return context.cache_folder / "scores" / key[:2] / key / f"{count:06d}-{weights}-{transport}-{device}.safetensors"
