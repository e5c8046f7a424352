"""Images by submitted code: every block crafted behind the walls, checked on this side of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.runs.craft import spans
from harness.runs.workspace import Workspace
from harness.sandbox import Choice, Limits, Sandbox, SubmissionError
from harness.submit.bundle import inputs_sha256
from harness.submit.images import check_attacked, parse, to_bytes
from harness.submit.record import Source
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.errors import UserError
from zoo.loading.load import weights_path

Notify = Callable[[str, int, int], None]
Span = tuple[int, int]


@dataclass(frozen=True)
class Walls:
    """How submitted code is to be walled in."""

    choice: Choice = "auto"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Made:
    """The images of one job, or of some of its blocks."""

    images: Tensor
    """(N, C, H, W) uint8, inside the ball."""
    forwards: int
    """Passes per image, as counted inside the sandbox."""
    backwards: int
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


def furnish(box: Sandbox, workspace: Workspace, substitute: str) -> None:
    """Hand a substitute of the suite, and nothing else that has weights, to a sandbox."""
    spec = workspace.suite.substitute(substitute)
    entries = [workspace.registry[model] for model in spec.models]
    box.substitute(spec, entries, [weights_path(entry) for entry in entries])


def craft_block(box: Sandbox, workspace: Workspace, source: Source, seed: int, index: Tensor, count: int) -> Made:
    """Let a sandbox craft the images of `index`, of which the first `count` are kept, and check them.

    Raises:
        SubmissionError: the code failed, or its images break a rule of the suite.
    """
    data, suite = workspace.full, workspace.suite
    clean = data.images[index]
    crafted = box.craft(
        source.files,
        source.submission.settings,
        eps=suite.budget.eps,
        steps=suite.steps,
        seed=seed,
        indices=index.tolist(),
        image_bytes=4 * clean[0].numel(),
    )
    ids = [data.ids[i] for i in index.tolist()]
    try:
        adv, _ = parse(crafted.data, "F32", tuple(clean.shape), "attack()")
        images = to_bytes(adv, clean, suite.budget.levels, ids, "attack()")[:count]
    except UserError as error:
        raise SubmissionError(str(error)) from error
    return Made(images, crafted.forwards, crafted.backwards, crafted.seconds)


def craft(box: Sandbox, workspace: Workspace, source: Source, job: Job, blocks: Iterable[Span], done: Callable[[], None]) -> Made:
    """Craft blocks of a job with a sandbox that holds its substitute; the last block is padded, as the harness does."""
    parts = []
    for start, stop in blocks:
        index = torch.arange(start, start + workspace.suite.block).clamp(max=stop - 1)
        try:
            parts.append(craft_block(box, workspace, source, job.seed, index, stop - start))
        except SubmissionError as error:
            where = f"{job.attack} on {job.substitute}, images {start} to {stop - 1}, seed {job.seed}"
            raise SubmissionError(f"{where}: {error}") from error
        done()
    images = torch.cat([p.images for p in parts])
    costs = [max(getattr(p, key) for p in parts) for key in ("forwards", "backwards")]
    return Made(images, costs[0], costs[1], sum(p.seconds for p in parts))


def craft_all(
    workspace: Workspace, source: Source, jobs: Sequence[tuple[Job, Sequence[Span]]], walls: Walls, workers: int, notify: Notify
) -> tuple[dict[Job, Made], str]:
    """Craft blocks of several jobs, `workers` sandboxes at a time; return what was made and the walls it was made behind.

    Raises:
        SubmissionError: the code failed, or its images break a rule of the suite.
        UserError: no isolation works here.
    """
    total, lock, finished = sum(len(blocks) for _, blocks in jobs), threading.Lock(), [0]

    def done() -> None:
        with lock:
            finished[0] += 1
            notify(f"crafting {source.submission.name}", finished[0], total)

    def share(mine: Sequence[tuple[Job, Sequence[Span]]]) -> tuple[dict[Job, Made], str]:
        made: dict[Job, Made] = {}
        with Sandbox(walls.choice, walls.limits) as box:
            box.data(workspace.full.images, workspace.full.labels)
            for job, blocks in mine:
                furnish(box, workspace, job.substitute)
                made[job] = craft(box, workspace, source, job, blocks, done)
            return made, box.isolation

    shares = [jobs[n::workers] for n in range(min(workers, len(jobs)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        results = [future.result() for future in [pool.submit(share, mine) for mine in shares]]
    merged = {job: made for part, _ in results for job, made in part.items()}
    for job, blocks in jobs:
        index = torch.cat([torch.arange(*block) for block in blocks])
        check_attacked(merged[job].images, workspace.full.images[index], f"{job.attack} on {job.substitute}")
    return {job: merged[job] for job, _ in jobs}, results[0][1]


def all_blocks(workspace: Workspace, jobs: Iterable[Job]) -> list[tuple[Job, Sequence[Span]]]:
    """Return jobs with all blocks of the suite's images."""
    blocks = spans(len(workspace.data), workspace.suite.block)
    return [(job, blocks) for job in jobs]
