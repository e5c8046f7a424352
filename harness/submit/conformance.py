"""What an attack must hold, tried on the embedded suite behind the walls: a minute that saves a submission."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.runs.workspace import Workspace, open_workspace
from harness.sandbox import Sandbox
from harness.submit.add import words
from harness.submit.controls import judge_controls, plan
from harness.submit.flags import flags
from harness.submit.images import check_attacked
from harness.submit.make import CraftedImages, Order, Walls, all_blocks, craft_all, craft_block, furnish, jobs_of
from harness.submit.measure import judge
from harness.submit.naming import refuse_taken, reserved
from harness.submit.pack import read_images
from harness.submit.record import Source, read_folder
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.errors import UserError

IMAGES = 16


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    passed: bool
    detail: str


@dataclass
class _Trial:
    """A submission's code in a sandbox, on a few images of a suite."""

    box: Sandbox
    workspace: Workspace
    source: Source
    block: int

    def craft(self, index: list[int], seed: int = 0) -> CraftedImages:
        return craft_block(self.box, self.workspace, self.source, seed, torch.tensor(index), len(index))


def conformance(folder: Path, suite: Suite, walls: Walls, device: str = "cpu") -> Iterator[Check]:
    """Try a submission and yield what was found; the first failure that makes the rest pointless ends it."""
    try:
        source = read_folder(folder)
        refuse_taken(source.submission.name, reserved(), "an attack or model of the harness")
    except UserError as error:
        yield Check("submission", False, str(error))
        return
    kind = f"{len(source.files)} Python file(s)" if source.files else "images"
    yield Check("submission", True, f"{source.submission.name} by {', '.join(source.submission.authors)}: {kind}")
    workspace = open_workspace(suite, None, device, ())
    if not source.files:
        yield from _images(folder, workspace, source)
        return
    for flag in flags(source):
        yield Check("code", True, f"a reviewer will look at {flag}")
    try:
        jobs = jobs_of(source, suite)
        names = _substitutes(jobs, workspace)
        for name in names:
            with Sandbox(walls.choice, walls.limits) as box:
                if name == names[0]:
                    yield Check("isolation", True, box.isolation)
                box.data(workspace.full.images, workspace.full.labels)
                furnish(box, workspace, name)
                block = min(IMAGES, len(workspace.full) // 2)  # the other half are its other batch-mates
                yield from _attack(_Trial(box, workspace, source, block), name, len(jobs))
        yield from _controls(workspace, source, next(job for job in jobs if job.substitute == names[0]), walls)
    except UserError as error:
        yield Check("isolation", False, str(error))


def _controls(workspace: Workspace, source: Source, job: Job, walls: Walls) -> Iterator[Check]:
    """Try whether the attack needs its substitute, as `submit add` will for each."""
    name = f"{job.substitute}: it needs its substitute"
    with judge(workspace, None, 1, lambda what, done, total: None) as bar:
        (whole,) = all_blocks(workspace, [job])
        trial = plan(bar, job, whole.blocks, random.SystemRandom().randrange(2**31), None)
        orders = [Order(job, trial.sample, whole.scene), *trial.orders]
        try:
            made, _ = craft_all(workspace, source, orders, walls, min(4, os.cpu_count() or 1), bar.notify)
        except UserError as error:
            yield Check(name, False, str(error))
            return
        controls, problem = judge_controls(bar, trial, made[0].images, [m.images for m in made[1:]])
    yield Check(name, not problem, problem or words(controls))


def _substitutes(jobs: list[Job], workspace: Workspace) -> list[str]:
    """Return one substitute that alternates its states and one that does not, of those that the submission names."""
    names = list(dict.fromkeys(job.substitute for job in jobs))
    alternates = [n for n in names if workspace.registry[workspace.suite.substitute(n).models[0]].alternation is not None]
    return list(dict.fromkeys([next((n for n in names if n not in alternates), names[0]), *alternates[:1]]))


def _attack(trial: _Trial, substitute: str, jobs: int) -> Iterator[Check]:
    data, suite = trial.workspace.full, trial.workspace.suite
    index = list(range(trial.block))
    try:
        first = trial.craft(index)
        check_attacked(first.images, data.images[index], "attack()")
    except UserError as error:
        yield Check(f"{substitute}: images", False, str(error))
        return
    level = int((first.images.int() - data.images[index].int()).abs().max())
    words = f"{len(index)} images within the budget, at most {level} of {suite.budget.levels} levels"
    yield Check(f"{substitute}: images", True, words)
    hint = "draw from `rng`, not from the time or the system"
    yield _same(f"{substitute}: same seed, same bytes", lambda: trial.craft(index).images, first.images, hint)
    mates = [0, *range(trial.block, 2 * trial.block - 1)]
    hint = "the image depends on its batch-mates: draw from `rng`, take no statistics over the batch"
    yield _same(f"{substitute}: other batch-mates, same image", lambda: trial.craft(mates).images[:1], first.images[:1], hint)
    yield _loss(trial, substitute, index, first.images)
    total = first.seconds / len(index) * len(data) * jobs
    cost = f"{first.forwards} forward and {first.backwards} backward passes per image"
    if first.forwards is None:
        cost = "passes are not counted, as it works inside the substitute"
    yield Check(f"{substitute}: cost", True, f"{cost}; about {total / 60:.1f} minutes for {suite.name} with one worker")


def _same(name: str, craft: Callable[[], Tensor], expected: Tensor, hint: str) -> Check:
    try:
        found = craft()
    except UserError as error:
        return Check(name, False, str(error))
    differing = int((found != expected).flatten(1).any(1).sum())
    if differing:
        return Check(name, False, f"{differing} of {len(expected)} images differ; {hint}")
    return Check(name, True, "identical")


def _loss(trial: _Trial, substitute: str, index: list[int], adv: Tensor) -> Check:
    """Measure on our own copy of the substitute whether the images raise its loss."""
    model = trial.workspace.substitute(substitute)
    labels = trial.workspace.full.labels[index]
    with model.session(), torch.no_grad():
        losses = [
            float(cross_entropy(model(images.float() / 255), labels)) for images in (trial.workspace.full.images[index], adv)
        ]
    words = f"from {losses[0]:.3g} to {losses[1]:.3g}"
    if losses[1] > losses[0]:
        return Check(f"{substitute}: the loss rises", True, words)
    return Check(f"{substitute}: the loss rises", False, f"it falls {words}; is the gradient's sign right?")


def _images(folder: Path, workspace: Workspace, source: Source) -> Iterator[Check]:
    for job in jobs_of(source, workspace.suite):
        name = f"{job.substitute} seed {job.seed}: images"
        try:
            read_images(folder, workspace, job)
        except UserError as error:
            yield Check(name, False, str(error))
        else:
            yield Check(name, True, f"{len(workspace.data)} images within the budget, in the suite's order")
