"""The main job: craft, check, score, write rows, write the board; interrupted work goes on where it stopped."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from harness.craft import Crafted, Job, collect, craft_block, max_level, spans
from harness.executors import local
from harness.lock import exclusive
from harness.provenance import provenance
from harness.results import (
    Absent,
    AbsentRows,
    Clean,
    Cost,
    Outcome,
    Predictions,
    Row,
    read_absent,
    read_clean,
    read_row,
    write_absent,
    write_clean,
    write_row,
)
from harness.score import score
from harness.snapshot import Snapshot, take
from harness.suite import Suite
from harness.unfinished import Request, remembered
from harness.workbench import Context, Workbench, workbench
from zoo.errors import UserError, did_you_mean
from zoo.evaluate import wilson


@dataclass(frozen=True)
class Selection:
    """Which part of a suite to run; empty means all of it."""

    attacks: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def jobs(self, suite: Suite) -> list[Job]:
        """Return the jobs of the selection, substitutes outermost, so that each is loaded once.

        Raises:
            UserError: a substitute or target that the suite does not have.
        """
        for name in self.targets:
            if name not in suite.target_names:
                near = did_you_mean(name, suite.target_names)
                raise UserError(f"suite {suite.name} has no target {name!r}{near}")
        substitutes = [suite.substitute(n).name for n in self.substitutes] or [s.name for s in suite.substitutes]
        attacks = list(self.attacks) or suite.attack_names
        seeds = self.seeds or suite.seeds
        return [Job(s, a, seed) for s in substitutes for a in attacks for seed in seeds]


@dataclass
class Report:
    """What a run did."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    reused: list[Path] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    """Models and jobs that could not take part, with the reason."""


Notify = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
R = TypeVar("R")


@dataclass(frozen=True)
class Work:
    """What every stage of a run is handed."""

    context: Context
    snapshot: Snapshot
    executor: local.Local
    notify: Notify
    report: Report
    batch_size: int | None


def suite_folder(out: Path, suite: Suite, limit: int | None) -> Path:
    """Return the folder of a suite's version; runs over fewer images go beside it, never into it."""
    return out / suite.name / (f"v{suite.version}" if limit is None else f"v{suite.version}-limit{limit}")


def run(
    suite: Suite,
    out: Path,
    selection: Selection | None = None,
    *,
    limit: int | None = None,
    device: str = "cpu",
    overlays: Sequence[str] = (),
    workers: int | None = None,
    batch_size: int | None = None,
    notify: Notify | None = None,
    suite_source: str | None = None,
) -> Report:
    """Run a suite, or the selected part of it, into `out`/<suite>/v<version>.

    `batch_size` decides how many images are in flight in a worker, rounded up to whole blocks, never what is computed.
    `suite_source` is the name or file that `harness resume` finds the suite by; its own name when None.

    Raises:
        UserError: unknown names, an unusable device or folder, or no job could run at all.
    """
    selection = selection or Selection()
    jobs = selection.jobs(suite)
    check_device(device)
    if limit is not None and limit >= (suite.data.limit or sys.maxsize):
        limit = None
    context = Context(suite, tuple(str(o) for o in overlays), device, limit)
    bench = workbench(context)
    for name in dict.fromkeys(job.attack for job in jobs):
        bench.attack(name)
    context = Context(suite, context.overlays, device, limit if limit is not None and limit < len(bench.full) else None)
    bench = workbench(context)
    workers = workers if workers is not None else local.default_workers(device)
    report = Report(suite_folder(out, suite, context.limit))
    targets = [t for t in suite.target_names if not selection.targets or t in selection.targets]
    blocked = _absent(bench, [*targets, *dict.fromkeys(m for j in jobs for m in suite.substitute(j.substitute).models)])
    snapshot = take(bench, blocked)
    request = Request(
        suite=suite_source or suite.name,
        attacks=selection.attacks,
        substitutes=selection.substitutes,
        targets=selection.targets,
        seeds=selection.seeds,
        limit=limit,
        device=device,
        overlays=context.overlays,
        workers=workers,
        batch_size=batch_size,
    )
    with exclusive(report.folder), remembered(report.folder, request), local.Local(workers) as executor:
        _claim_folder(report.folder, snapshot)
        work = Work(context, snapshot, executor, notify or (lambda what, done, total: None), report, batch_size)
        clean = _clean(work, [t for t in targets if t not in blocked])
        blocked |= _gate(bench, clean, [t for t in targets if t not in blocked])
        report.blocked = blocked
        _note_absent(report, jobs, bench)
        for job in _runnable(bench, jobs, blocked, report):
            _job(work, job, clean, targets)
    if not report.written and not report.reused:
        reasons = "; ".join(dict.fromkeys(report.blocked.values()))
        raise UserError(f"nothing of suite {suite.name} could run: {reasons}")
    return report


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or cannot use."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"device {device!r} cannot be used ({reason}); use cpu, or a device that torch sees") from error


def _absent(bench: Workbench, models: Iterable[str]) -> dict[str, str]:
    """Return the models whose weights cannot be had, with the reason."""
    blocked = {}
    for name in dict.fromkeys(models):
        try:
            bench.sha256(name)
        except UserError as error:
            blocked[name] = str(error)
    return blocked


def _claim_folder(folder: Path, snapshot: Snapshot) -> None:
    """Write the suite's snapshot into its folder, or check that the folder holds the same suite."""
    known = Snapshot.read(folder) if (folder / "suite.yaml").is_file() else None
    if known is not None and known.digest != snapshot.digest and any((folder / "rows").glob("*.json")):
        raise UserError(
            f"{folder} holds rows of another {snapshot.suite.name} (digest {known.digest[:12]}, now {snapshot.digest[:12]}): "
            f"its models, images or settings changed; raise the suite's version, or choose another folder with --out"
        )
    snapshot.write(folder)


def _clean(work: Work, targets: list[str]) -> Clean:
    """Predict the clean images with every target, keep what an earlier run found, and write clean.json."""
    data = workbench(work.context).data
    snapshot, folder = work.snapshot, work.report.folder
    known: dict[str, Predictions] = {}
    if (folder / "clean.json").is_file():
        before = read_clean(folder)
        if before.suite_digest == snapshot.digest:
            known = dict(before.predictions)
    todo = [t for t in targets if t not in known]
    for done, (target, found) in enumerate(work.executor.run(partial(score, work.context, None), todo), 1):
        known[target] = Predictions(_unwrap(found).numpy())
        work.notify("clean images", done, len(todo))
    clean = Clean(
        suite=snapshot.suite.name,
        suite_version=snapshot.suite.version,
        suite_digest=snapshot.digest,
        labels=Predictions(data.labels.numpy()),
        ids=data.ids,
        predictions={t: known[t] for t in snapshot.suite.target_names if t in known},
    )
    write_clean(folder, clean)
    return clean


def _gate(bench: Workbench, clean: Clean, targets: Iterable[str]) -> dict[str, str]:
    """Return the targets whose clean accuracy falls short of the registry's claim: a wrong file, offset or normalisation."""
    blocked = {}
    for name in targets:
        claim = bench.registry[name].clean_accuracy
        n = len(clean.labels)
        correct = int((clean.predictions[name].array == clean.labels.array).sum())
        high = wilson(correct, n)[1]
        if claim is not None and claim.top1 > high and claim.top1 - 100 * correct / n > bench.suite.tolerance:
            found = f"{100 * correct / n:.1f} % of the clean images, {claim.top1:.1f} % claimed"
            blocked[name] = f"{name} classifies {found}; see zoo eval {name}"
    return blocked


def _note_absent(report: Report, jobs: Iterable[Job], bench: Workbench) -> None:
    """Record the rows that cannot be made, beside those that an earlier run could not, so that a board shows them missing."""
    rows = {(row.substitute, row.attack): row for row in read_absent(report.folder).rows}
    for job in jobs:
        rows.pop((job.substitute, job.attack), None)
        missing = [m for m in bench.suite.substitute(job.substitute).models if m in report.blocked]
        if missing:
            reason = report.blocked[missing[0]]
            rows[job.substitute, job.attack] = Absent(substitute=job.substitute, attack=job.attack, reason=reason)
    write_absent(report.folder, AbsentRows(rows=tuple(rows[key] for key in sorted(rows))))


def _runnable(bench: Workbench, jobs: Iterable[Job], blocked: dict[str, str], report: Report) -> Iterator[Job]:
    for job in jobs:
        missing = [m for m in bench.suite.substitute(job.substitute).models if m in blocked]
        if missing:
            report.blocked[job.substitute] = blocked[missing[0]]
        else:
            yield job


def _job(work: Work, job: Job, clean: Clean, targets: list[str]) -> None:
    """Make one row, or keep the one that is there."""
    context, report = work.context, work.report
    bench = workbench(context)
    template = _template(bench, job, work.snapshot)
    path = report.folder / "rows" / template(outcomes={}, failures={"none": "-"}).filename
    if _known(path, template, targets, report.blocked) is not None:
        report.reused.append(path)
        return
    title = f"{job.substitute} x {job.attack}" + (f" seed {job.seed}" if job.seed else "")
    blocks = spans(len(bench.data), context.suite.block)
    per_task = max(1, -(-(work.batch_size or 1) // context.suite.block))
    tasks = [tuple(blocks[i : i + per_task]) for i in range(0, len(blocks), per_task)]
    done = 0
    for task, result in work.executor.run(partial(_craft_task, context, job), tasks):
        _unwrap(result)
        done += len(task)
        work.notify(f"crafting {title}", done, len(blocks))
    crafted = collect(context, job)
    ready = [t for t in targets if t not in report.blocked]
    outcomes: dict[str, Outcome] = {}
    for target, found in work.executor.run(partial(score, context, job), ready):
        outcomes[target] = Outcome(clean=clean.predictions[target], adv=Predictions(_unwrap(found).numpy()))
        work.notify(f"scoring {title}", len(outcomes), len(ready))
    order = context.suite.target_names
    row = template(
        outcomes={t: outcomes[t] for t in order if t in outcomes},
        failures={t: report.blocked.get(t, "not run") for t in order if t not in outcomes},
        crafted=crafted,
    )
    report.written.append(write_row(report.folder, row))


def _craft_task(context: Context, job: Job, blocks: tuple[tuple[int, int], ...]) -> None:
    for start, stop in blocks:
        craft_block(context, job, start, stop)


def _template(bench: Workbench, job: Job, snapshot: Snapshot) -> Callable[..., Row]:
    """Return what makes the job's row once its outcomes are known."""
    attack = bench.attack(job.attack)
    cost = attack.cost(bench.suite.steps)
    weights = [bench.sha256(m) for m in bench.suite.substitute(job.substitute).models]

    def make(outcomes: dict[str, Outcome], failures: dict[str, str], crafted: Crafted | None = None) -> Row:
        from harness.shards import digest

        return Row(
            suite=bench.suite.name,
            suite_version=bench.suite.version,
            suite_digest=snapshot.digest,
            attack=job.attack,
            composition=repr(attack),
            substitute=job.substitute,
            substitute_sha256=weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest(),
            seed=job.seed,
            limit=bench.context.limit,
            images_sha256=digest(crafted.images) if crafted else "0" * 64,
            max_level=max_level(crafted.images, bench.data.images) if crafted else 0,
            outcomes=outcomes,
            failures=failures,
            cost=Cost(
                forwards=cost.forwards if cost else None,
                backwards=cost.backwards if cost else None,
                seconds=round(crafted.seconds, 3) if crafted else 0.0,
                device=bench.context.device,
            ),
            provenance=provenance(),
        )

    return make


def _known(path: Path, template: Callable[..., Row], targets: list[str], blocked: dict[str, str]) -> Row | None:
    """Return the row that is there when it is of this suite, attack and substitute and lacks nothing that could be scored."""
    if not path.is_file():
        return None
    row = read_row(path)
    fresh = template(outcomes={}, failures={"none": "-"})
    same = all(
        getattr(row, key) == getattr(fresh, key)
        for key in ("suite_digest", "composition", "substitute_sha256", "seed", "limit")
    )
    return row if same and all(t in row.outcomes or t in blocked for t in targets) else None


def _unwrap(result: R | UserError) -> R:
    if isinstance(result, UserError):
        raise result
    return result
