"""Images by submitted code: every block crafted behind the walls, checked on this side of them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.runs.craft import spans
from harness.runs.workspace import Workspace
from harness.sandbox import Change, Choice, Limits, Sandbox, SubmissionError
from harness.submit.bundle import inputs_sha256
from harness.submit.images import check_attacked, parse, to_bytes
from harness.submit.record import Source
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.data import Dataset
from zoo.errors import UserError
from zoo.loading.load import weights_path

Notify = Callable[[str, int, int], None]
Span = tuple[int, int]


@dataclass(frozen=True)
class Walls:
    """How submitted code is to be walled in."""

    choice: Choice = "auto"
    limits: Limits = field(default_factory=Limits)
    total_seconds: float = 24 * 3600.0
    """Time for all blocks of a submission, beside the limit of each."""


@dataclass(frozen=True)
class CraftedImages:
    """The images of one job, or of some of its blocks."""

    images: Tensor
    """(N, C, H, W) uint8, inside the ball."""
    forwards: int | None
    """Passes per image, counted by the process that holds the substitute; None where nobody can count them."""
    backwards: int | None
    seconds: float
    """Measured outside."""


def jobs_of(source: Source, suite: Suite) -> list[Job]:
    """Return the jobs that a submission stands for: its substitutes under every seed of the suite."""
    names = source.submission.substitutes or tuple(s.name for s in suite.substitutes)
    return [Job(suite.substitute(n).name, source.submission.name, seed) for n in names for seed in suite.seeds]


def inputs_of(workspace: Workspace) -> str:
    """Return the digest of what an attack on this suite is given."""
    suite = workspace.suite
    return inputs_sha256(suite.name, suite.version, suite.budget.levels, suite.steps, suite.block, workspace.full_digest)


def substitute_sha256(workspace: Workspace, name: str) -> str:
    """Return the digest that a row gives for a substitute: of its weights, or of its models' digests."""
    weights = [workspace.sha256(m) for m in workspace.suite.substitute(name).models]
    return weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()


@dataclass(frozen=True)
class Scene:
    """What an attack is run on: the suite's images and substitute, or a control's."""

    data: Dataset
    count: int
    """Images from the first on that are attacked; the others are only there to be mixed in."""
    change: Change | None = None
    """What is done to the substitute's weights; None leaves them as they are."""


def scene_of(workspace: Workspace) -> Scene:
    """Return what a suite's rows are made on."""
    return Scene(workspace.full, len(workspace.data))


def furnish(box: Sandbox, workspace: Workspace, substitute: str, change: Change | None = None) -> None:
    """Hand a substitute of the suite, and nothing else that has weights, to a sandbox, which changes it if it is told to."""
    spec = workspace.suite.substitute(substitute)
    entries = [workspace.registry[model] for model in spec.models]
    box.substitute(spec, entries, [weights_path(entry) for entry in entries], change)


def craft_block(
    box: Sandbox, workspace: Workspace, source: Source, seed: int, index: Tensor, count: int, scene: Scene | None = None
) -> CraftedImages:
    """Let a sandbox craft the images of `index`, of which the first `count` are kept, and check them.

    Raises:
        SubmissionError: the code failed, or its images break a rule of the suite.
    """
    data, suite = (scene or scene_of(workspace)).data, workspace.suite
    clean = data.images[index]
    crafted = box.craft(
        source.files,
        source.submission.settings,
        eps=suite.budget.eps,
        steps=suite.steps,
        seed=seed,
        indices=index.tolist(),
        image_bytes=4 * clean[0].numel(),
        internals=source.submission.internals,
    )
    ids = [data.ids[i] for i in index.tolist()]
    try:
        adv, _ = parse(crafted.data, "F32", tuple(clean.shape), "attack()")
        images = to_bytes(adv, clean, suite.budget.levels, ids, "attack()")[:count]
    except UserError as error:
        raise SubmissionError(str(error)) from error
    return CraftedImages(images, crafted.forwards, crafted.backwards, crafted.seconds)


@dataclass(frozen=True)
class Order:
    """Blocks of a job to be crafted on a scene."""

    job: Job
    blocks: tuple[Span, ...]
    scene: Scene

    @property
    def index(self) -> Tensor:
        """Places of the images in the scene."""
        return torch.cat([torch.arange(*block) for block in self.blocks])


def craft(box: Sandbox, workspace: Workspace, source: Source, order: Order, done: Callable[[], None]) -> CraftedImages:
    """Craft an order with a sandbox that holds its substitute; the last block is padded, as the harness does."""
    parts, job = [], order.job
    for start, stop in order.blocks:
        index = torch.arange(start, start + workspace.suite.block).clamp(max=stop - 1)
        try:
            parts.append(craft_block(box, workspace, source, job.seed, index, stop - start, order.scene))
        except SubmissionError as error:
            where = f"{job.attack} on {job.substitute}, images {start} to {stop - 1}, seed {job.seed}"
            raise SubmissionError(f"{where}: {error}") from error
        done()
    images = torch.cat([p.images for p in parts])
    forwards = None if parts[0].forwards is None else max(p.forwards or 0 for p in parts)
    backwards = None if parts[0].backwards is None else max(p.backwards or 0 for p in parts)
    return CraftedImages(images, forwards, backwards, sum(p.seconds for p in parts))


def craft_all(
    workspace: Workspace, source: Source, orders: Sequence[Order], walls: Walls, workers: int, notify: Notify
) -> tuple[list[CraftedImages], str]:
    """Craft several orders, `workers` sandboxes at a time, each in a sandbox of its own, so that none leaves a trace for another.

    Returns what was made, in the same order, and the walls it was made behind.

    Raises:
        SubmissionError: the code failed, its images break a rule of the suite, or it took more than its time in all.
        UserError: no isolation works here.
    """
    total, lock, finished = sum(len(order.blocks) for order in orders), threading.Lock(), [0]
    deadline = time.monotonic() + walls.total_seconds

    def done() -> None:
        with lock:
            finished[0] += 1
            notify(f"crafting {source.submission.name}", finished[0], total)
        if time.monotonic() > deadline:
            took = f"{finished[0]} of {total} blocks took more than {walls.total_seconds:g} seconds"
            raise SubmissionError(f"{source.submission.name}: {took}, the time for a submission; allow more with --total-seconds")

    def one(order: Order) -> tuple[CraftedImages, str]:
        with Sandbox(walls.choice, walls.limits) as box:
            box.data(order.scene.data.images, order.scene.data.labels)
            furnish(box, workspace, order.job.substitute, order.scene.change)
            return craft(box, workspace, source, order, done), box.isolation

    with ThreadPoolExecutor(max(1, min(workers, len(orders)))) as pool:
        futures = [pool.submit(one, order) for order in orders]
        try:
            results = [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    for order, (made, _) in zip(orders, results, strict=True):
        if order.scene.change is None:
            check_attacked(made.images, order.scene.data.images[order.index], f"{order.job.attack} on {order.job.substitute}")
    return [made for made, _ in results], results[0][1]


def all_blocks(workspace: Workspace, jobs: Iterable[Job]) -> list[Order]:
    """Return jobs with all blocks of the suite's images."""
    blocks = tuple(spans(len(workspace.data), workspace.suite.block))
    return [Order(job, blocks, scene_of(workspace)) for job in jobs]
