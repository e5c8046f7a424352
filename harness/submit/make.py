"""Images by submitted code: every block crafted behind the walls, checked on this side of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.craft import spans
from harness.sandbox import Choice, Limits, Sandbox, SubmissionError
from harness.selection import Job
from harness.submit.bundle import inputs_sha256
from harness.submit.images import check_attacked, parse, to_bytes
from harness.submit.record import Source
from harness.suite import Suite
from harness.workbench import Workbench
from zoo.build import weights_path
from zoo.errors import UserError

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


def inputs_of(bench: Workbench) -> str:
    """Return the digest of what an attack on this suite is given."""
    suite = bench.suite
    return inputs_sha256(suite.name, suite.version, suite.budget.levels, suite.steps, suite.block, bench.full_digest)


def substitute_sha256(bench: Workbench, name: str) -> str:
    """Return the digest that a row gives for a substitute: of its weights, or of its models' digests."""
    weights = [bench.sha256(m) for m in bench.suite.substitute(name).models]
    return weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()


def furnish(box: Sandbox, bench: Workbench, substitute: str) -> None:
    """Hand a substitute of the suite, and nothing else that has weights, to a sandbox."""
    spec = bench.suite.substitute(substitute)
    entries = [bench.registry[model] for model in spec.models]
    box.substitute(spec, entries, [weights_path(entry) for entry in entries])


def craft_block(box: Sandbox, bench: Workbench, source: Source, seed: int, index: Tensor, count: int) -> Made:
    """Let a sandbox craft the images of `index`, of which the first `count` are kept, and check them.

    Raises:
        SubmissionError: the code failed, or its images break a rule of the suite.
    """
    data, suite = bench.full, bench.suite
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


def craft(box: Sandbox, bench: Workbench, source: Source, job: Job, blocks: Iterable[Span], done: Callable[[], None]) -> Made:
    """Craft blocks of a job with a sandbox that holds its substitute; the last block is padded, as the harness does."""
    parts = []
    for start, stop in blocks:
        index = torch.arange(start, start + bench.suite.block).clamp(max=stop - 1)
        try:
            parts.append(craft_block(box, bench, source, job.seed, index, stop - start))
        except SubmissionError as error:
            where = f"{job.attack} on {job.substitute}, images {start} to {stop - 1}, seed {job.seed}"
            raise SubmissionError(f"{where}: {error}") from error
        done()
    images = torch.cat([p.images for p in parts])
    costs = [max(getattr(p, key) for p in parts) for key in ("forwards", "backwards")]
    return Made(images, costs[0], costs[1], sum(p.seconds for p in parts))


def craft_all(
    bench: Workbench, source: Source, jobs: Sequence[tuple[Job, Sequence[Span]]], walls: Walls, workers: int, notify: Notify
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
            box.data(bench.full.images, bench.full.labels)
            for job, blocks in mine:
                furnish(box, bench, job.substitute)
                made[job] = craft(box, bench, source, job, blocks, done)
            return made, box.isolation

    shares = [jobs[n::workers] for n in range(min(workers, len(jobs)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        results = [future.result() for future in [pool.submit(share, mine) for mine in shares]]
    merged = {job: made for part, _ in results for job, made in part.items()}
    for job, blocks in jobs:
        index = torch.cat([torch.arange(*block) for block in blocks])
        check_attacked(merged[job].images, bench.full.images[index], f"{job.attack} on {job.substitute}")
    return {job: merged[job] for job, _ in jobs}, results[0][1]


def all_blocks(bench: Workbench, jobs: Iterable[Job]) -> list[tuple[Job, Sequence[Span]]]:
    """Return jobs with all blocks of the suite's images."""
    blocks = spans(len(bench.data), bench.suite.block)
    return [(job, blocks) for job in jobs]
