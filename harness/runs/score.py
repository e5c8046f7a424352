"""Images x targets to predictions, exactly as the target sees the bytes."""

from __future__ import annotations

import io
import platform
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness.records.predictions import Predictions
from harness.runs.craft import collect
from harness.runs.stage import Stage
from harness.runs.workspace import Context, workspace_of
from harness.storage import shards
from harness.substitutes.kernels import Precision, at_speed, fixed
from harness.suites.selection import Job
from zoo.errors import MachineError, UserError
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
def predict(model: nn.Module, images: Tensor, device: str, precision: Precision = "exact") -> Tensor:
    """Return the predicted classes (N,) int16 of uint8 images, in padded batches of a fixed size.

    Raises:
        UserError: an answer is not finite, which is no prediction: the largest of NaNs would be class 0.
    """
    out = []
    with fixed(device, precision), frozen(model), at_speed(model) as layout:
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            padded = torch.cat([batch, batch[-1:].expand(BATCH - len(batch), *batch.shape[1:])])
            pixels = (padded.to(device).float() / 255).to(memory_format=layout)
            logits = model(pixels)[: len(batch)]
            broken = (~logits.isfinite()).flatten(1).any(1)
            if broken.any():
                first = start + int(broken.nonzero()[0])
                raise UserError(f"answers {int(broken.sum())} of {len(batch)} images, first {first}, with NaN or infinite logits")
            out.append(logits.argmax(1))
    return torch.cat(out).to(torch.int16).cpu()


def predictions(context: Context, job: Job | None, images: np.ndarray | None, task: tuple[str, str]) -> np.ndarray:
    """Return what a target predicts (N,) int16; touches no cache but to read, so it runs on any machine.

    `task` is a target and its identity (`zoo.loading.load.identity`). `images` are the job's bytes; None takes them from the
    cache that this process shares with the one that asks, or the clean images when `job` is None.

    Raises:
        MachineError: the target is another one on this machine.
    """
    target, identity = task
    workspace = workspace_of(context)
    if workspace.identity(target) != identity:
        raise MachineError(f"{platform.node()} has another {target} than this machine: pull the same weights and registry there")
    if images is not None:
        pixels = torch.from_numpy(np.array(images))
    else:
        pixels = workspace.data.images if job is None else collect(context, job).images
    arrived = transported(pixels, workspace.suite.transport)
    return predict(workspace.target(target), arrived, context.device, context.precision).numpy()


def score(context: Context, job: Job | None, target: str) -> Tensor:
    """Return a target's predictions on a job's images, or on the clean images when `job` is None; cached by content."""
    path, task = score_path(context, job, target), (target, workspace_of(context).identity(target))
    known = shards.read(path)
    if known is not None:
        return known[0]
    found = torch.from_numpy(predictions(context, job, None, task))
    shards.write(path, found)
    return found


def score_path(context: Context, job: Job | None, target: str) -> Path:
    """Return the cache file of one target's predictions on a job's images, or on the clean ones when `job` is None."""
    workspace = workspace_of(context)
    key = workspace.digest if job is None else workspace.craft_key(job.substitute, job.attack, job.seed)
    name = f"{len(workspace.data):06d}-{workspace.score_key(target)}.safetensors"
    return context.cache_folder / "scores" / key[:2] / key / name


def score_images(
    stage: Stage, title: str, job: Job | None, images: Tensor, targets: Iterable[str]
) -> tuple[dict[str, Predictions], dict[str, str]]:
    """Return the models' predictions on images, from the cache where it has them, and the reasons of those that fail."""
    context = stage.context
    workspace = workspace_of(context)
    known = {target: shards.read(score_path(context, job, target)) for target in targets}
    found = {target: Predictions(shard[0].numpy()) for target, shard in known.items() if shard is not None}
    todo = [(target, workspace.identity(target)) for target in targets if target not in found]
    shipped = None if stage.executor.sees_cache else images.numpy()
    failed: dict[str, str] = {}
    for (target, _), result in stage.executor.run(partial(predictions, context, job, shipped), todo):
        if isinstance(result, MachineError):
            raise result
        if isinstance(result, UserError):
            failed[target] = f"{target}: {result}"
            continue
        adv = np.array(result)
        shards.write(score_path(context, job, target), torch.from_numpy(adv))
        found[target] = Predictions(adv)
        stage.notify(title, len(found), len(known))
    return found, failed
