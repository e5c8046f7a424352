"""What a run would do: its jobs, the models it needs, what is done already, and an estimate of time and disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.records.rows import read_absent, read_rows
from harness.runs.craft import shard_path, spans
from harness.runs.runner import suite_folder
from harness.runs.workspace import Workspace
from harness.suites.selection import Job, Selection
from harness.suites.suite import Suite
from zoo.errors import UserError
from zoo.hub.pulling import availability
from zoo.registry.entry import ModelEntry

SAMPLE = 16
"""Images in the batch that the estimate is measured on."""
REPEATS = 3
"""Times that it is measured, of which the best counts: the first pass of a process is slow."""


@dataclass(frozen=True)
class JobPlan:
    """One substitute x attack x seed."""

    name: str
    substitute: str
    attack: str
    seed: int
    images: int
    done: int
    """Images that are in the cache."""
    row: bool
    """Whether the row is there."""
    forwards: int | None
    """Forward passes of the substitute that are still to do, over all images; null when the attack declares no cost."""
    backwards: int | None
    seconds: float | None
    """Estimated time in one process; null when the substitute is not on this machine."""
    missing: str | None


@dataclass(frozen=True)
class ModelPlan:
    """One model of the suite, and where its bytes come from."""

    name: str
    role: str
    route: str
    size: int | None
    missing: str | None


@dataclass(frozen=True)
class Plan:
    """All of it."""

    suite: str
    version: int
    device: str
    images: int
    jobs: list[JobPlan]
    models: list[ModelPlan]
    seconds: float | None
    """Estimated time of crafting and scoring what is left in one process; null when nothing could be measured."""
    disk: int
    """Bytes that the images still to be made take in the cache."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)


def plan(workspace: Workspace, selection: Selection, out: Path, measure: bool = True) -> Plan:
    """Plan a run; with `measure`, time one batch of each model that is here."""
    suite = workspace.suite
    selected = selection.jobs(suite)
    targets = [t for t in suite.target_names if not selection.targets or t in selection.targets]
    substitutes = list(dict.fromkeys(m for j in selected for m in suite.substitute(j.substitute).models))
    absent = {name: reason for name in {*targets, *substitutes} if (reason := _absent(workspace, name))}
    here = [n for n in dict.fromkeys([*substitutes, *targets]) if n not in absent]
    speed = {n: _pass_seconds(workspace, n, backward=n in substitutes) for n in here} if measure else {}
    folder = suite_folder(out, suite, workspace.context.limit, workspace.context.how)
    jobs = [_job(workspace, job, folder, absent, speed) for job in selected]
    models = [_model(workspace.registry[n], "substitute", absent.get(n)) for n in substitutes]
    models += [_model(workspace.registry[n], "target", absent.get(n)) for n in targets]
    left = [j for j in jobs if not j.row and j.missing is None]
    scoring = sum(speed[t][0] for t in targets if t in speed) * len(workspace.data) * len(left)
    seconds = sum(j.seconds or 0.0 for j in left) + scoring if speed else None
    image_bytes = workspace.data.images[0].numel() if len(workspace.data) else 0
    disk = sum(j.images - j.done for j in left) * image_bytes
    return Plan(suite.name, suite.version, workspace.context.device, len(workspace.data), jobs, _distinct(models), seconds, disk)


def _distinct(models: Iterable[ModelPlan]) -> list[ModelPlan]:
    found: dict[str, ModelPlan] = {}
    for model in models:
        known = found.get(model.name)
        found[model.name] = model if known is None else ModelPlan(**{**asdict(known), "role": "substitute, target"})
    return list(found.values())


def _absent(workspace: Workspace, name: str) -> str | None:
    try:
        workspace.sha256(name)
    except UserError as error:
        return str(error)
    return None


def _model(entry: ModelEntry, role: str, missing: str | None) -> ModelPlan:
    size = entry.weights.size if entry.weights else None
    return ModelPlan(entry.name, role, availability(entry), size, missing)


def _job(
    workspace: Workspace, job: Job, folder: Path, absent: dict[str, str], speed: dict[str, tuple[float, float]]
) -> JobPlan:
    models = workspace.suite.substitute(job.substitute).models
    cost = workspace.attack(job.attack).cost(workspace.suite.steps)
    missing = next((absent[m] for m in models if m in absent), None)
    done = 0
    if missing is None:
        key = workspace.craft_key(job.substitute, job.attack, job.seed)
        covered = spans(len(workspace.data), workspace.suite.block)
        done = sum(stop - start for start, stop in covered if shard_path(workspace.context, key, start, stop).is_file())
    left = len(workspace.data) - done
    rate = [speed[m] for m in models if m in speed]
    each = sum(cost.forwards * f + cost.backwards * b for f, b in rate) if cost else None
    return JobPlan(
        name=f"{job.substitute}--{job.attack}--s{job.seed}",
        substitute=job.substitute,
        attack=job.attack,
        seed=job.seed,
        images=len(workspace.data),
        done=done,
        row=(folder / "rows" / f"{job.substitute}--{job.attack}--s{job.seed}.json").is_file(),
        forwards=cost.forwards * left if cost else None,
        backwards=cost.backwards * left if cost else None,
        seconds=each * left if each is not None and rate else None,
        missing=missing,
    )


def _pass_seconds(workspace: Workspace, name: str, backward: bool) -> tuple[float, float]:
    """Return the seconds per image of a forward pass and of the input gradient that follows it, best of a few."""
    model: nn.Module = workspace.target(name)
    x = (workspace.data.images[:SAMPLE].to(workspace.context.device).float() / 255).requires_grad_(backward)
    forwards, backwards = [], []
    for _ in range(REPEATS):
        began = _now(x)
        with torch.set_grad_enabled(backward):
            logits = model(x)
        middle = _now(x)
        if backward:
            torch.autograd.grad(logits.sum(), x)
        forwards.append(middle - began)
        backwards.append(_now(x) - middle)
    return min(forwards) / len(x), min(backwards) / len(x)


def _now(x: torch.Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def status(suite: Suite, folder: Path) -> list[dict[str, Any]]:
    """Return for every row of a suite whether it is done, partial, missing for a known reason, or still to do."""
    there = {(r.substitute, r.attack, r.seed): r for r in read_rows(folder)}
    absent = {(a.substitute, a.attack): a.reason for a in read_absent(folder).rows}
    rows: list[dict[str, Any]] = []
    selection, suite = Selection().bring(suite)
    for job in selection.jobs(suite):
        row, reason = there.get((job.substitute, job.attack, job.seed)), absent.get((job.substitute, job.attack))
        if row is not None:
            state, reason = ("partial", next(iter(row.failures.values()))) if row.failures else ("done", None)
        else:
            state = "missing" if reason else "to do"
        rows.append({"name": f"{job.substitute}--{job.attack}--s{job.seed}", "state": state, "reason": reason})
    return rows
