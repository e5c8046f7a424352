"""Images x targets to predictions, exactly as the target sees the bytes."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.records.predictions import Predictions
from harness.runs.answers import predict, transported
from harness.runs.craft import collect
from harness.runs.stage import Stage
from harness.runs.workspace import Context, workspace_of
from harness.storage import shards
from harness.suites.selection import Job
from zoo.errors import MachineError, UserError


def predictions(context: Context, job: Job | None, images: np.ndarray | None, task: tuple[str, str]) -> np.ndarray:
    """Return what a target predicts (N,) int16; touches no cache but to read, so it runs on any machine.

    `task` is a target and its key (`Workspace.score_key`). `images` are the job's bytes; None takes them from the
    cache that this process shares with the one that asks, or the clean images when `job` is None.

    Raises:
        MachineError: this machine's answers may be others: its target, code, torch, device or engine is another.
    """
    target, key = task
    workspace = workspace_of(context)
    if workspace.score_key(target) != key:
        raise MachineError(
            f"{platform.node()} would answer otherwise as {target} than this machine: its weights, registry, code, torch, engine "
            f"or processor is another; install the same versions and pull the same weights on all nodes"
        )
    if images is not None:
        pixels = torch.from_numpy(np.array(images))
    else:
        pixels = workspace.data.images if job is None else collect(context, job).images
    arrived = transported(pixels, workspace.suite.transport)
    return predict(workspace.target(target), arrived, context.device, context.precision).numpy()


def score(context: Context, job: Job | None, target: str) -> Tensor:
    """Return a target's predictions on a job's images, or on the clean images when `job` is None; cached by content."""
    path, task = score_path(context, job, target), (target, workspace_of(context).score_key(target))
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
    todo = [(target, workspace.score_key(target)) for target in targets if target not in found]
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
