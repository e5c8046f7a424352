"""The main job: craft, check, score, write rows, write the board; interrupted work goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness import shards
from harness.claim import claim_folder as claim_folder
from harness.craft import Crafted, collect, keep, lacking, make_blocks, max_level
from harness.executors import Executor, open_executor
from harness.executors.local import single_thread
from harness.lock import cache_in_use, exclusive
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
from harness.score import predictions, score_path
from harness.selection import Job
from harness.snapshot import Snapshot, take
from harness.suite import Suite
from harness.unfinished import Request, remembered
from harness.workbench import Context, Workbench, forget, open_bench, workbench
from zoo.devices import check_device
from zoo.errors import MachineError, UserError
from zoo.intervals import wilson


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


@dataclass(frozen=True)
class Work:
    """What every stage of a run is handed."""

    context: Context
    snapshot: Snapshot
    executor: Executor
    notify: Notify
    report: Report


def suite_folder(out: Path, suite: Suite, limit: int | None) -> Path:
    """Return the folder of a suite's version; runs over fewer images go beside it, never into it."""
    return out / suite.name / (f"v{suite.version}" if limit is None else f"v{suite.version}-limit{limit}")


def run(suite: Suite, request: Request, out: Path, notify: Notify | None = None) -> Report:
    """Run a suite, or the part of it that is asked for, into `out`/<suite>/v<version>.

    This process is the only one that writes: workers hand over what they made. `batch_size` of the request decides how many
    images wait at a worker, rounded up to whole blocks, never what is computed.

    Raises:
        UserError: unknown names, an unusable device or folder, or no job could run at all.
    """
    selection, suite = request.selection.bring(suite)
    jobs = selection.jobs(suite)
    check_device(request.device)
    single_thread()
    forget()
    for name in dict.fromkeys(job.attack for job in jobs):
        workbench(Context(suite, request.overlays, request.device)).attack(name)
    bench = open_bench(suite, request.limit, request.device, request.overlays)
    context = bench.context
    report = Report(suite_folder(out, suite, context.limit))
    targets = [t for t in suite.target_names if not selection.targets or t in selection.targets]
    substitutes = dict.fromkeys(m for job in jobs for m in suite.substitute(job.substitute).models)
    blocked = absent_models(bench, [*targets, *substitutes])
    snapshot = take(bench, blocked)
    waiting = None if request.batch_size is None else -(-request.batch_size // suite.block)
    executor = open_executor(request.executor, request.device, request.workers, request.address, request.gpus, waiting)
    with exclusive(report.folder), cache_in_use(context.cache_folder):
        snapshot = claim_folder(report.folder, snapshot)
        with executor as opened, remembered(report.folder, request, suite):
            work = Work(context, snapshot, opened, notify or (lambda what, done, total: None), report)
            here = [[m for m in models if m not in blocked] for models in (targets, substitutes)]
            clean, failed = admit(work, *here)
            report.blocked = blocked = blocked | failed
            missing = _missing(bench, jobs, blocked)
            _note_absent(report, missing, jobs)
            for job in jobs:
                if job in missing:
                    report.blocked[job.substitute] = missing[job]
                else:
                    _job(work, job, clean, targets)
    if not report.written and not report.reused:
        reasons = "; ".join(dict.fromkeys(report.blocked.values()))
        raise UserError(f"nothing of suite {suite.name} could run: {reasons}")
    return report


def absent_models(bench: Workbench, models: Iterable[str]) -> dict[str, str]:
    """Return the models whose weights cannot be had, with the reason."""
    blocked = {}
    for name in dict.fromkeys(models):
        try:
            bench.sha256(name)
        except UserError as error:
            blocked[name] = str(error)
    return blocked


def admit(work: Work, targets: list[str], substitutes: Iterable[str] = ()) -> tuple[Clean, dict[str, str]]:
    """Have models predict the clean images, and write clean.json; return it, and why some models cannot take part.

    A model takes part when its file fits and it is as accurate as the registry claims. A substitute without a claim is not
    asked for predictions, as only targets need them.
    """
    bench = workbench(work.context)
    clean, failed = predict_clean(work, targets)
    claimed = [m for m in substitutes if m not in clean.predictions and bench.registry[m].clean_accuracy is not None]
    others, unfit = _score(work, "clean images", None, bench.data.images, [m for m in claimed if m not in failed])
    known = {m: clean.predictions[m] for m in (*targets, *substitutes) if m in clean.predictions}
    return clean, failed | unfit | gate(bench, known | others)


def predict_clean(work: Work, targets: list[str]) -> tuple[Clean, dict[str, str]]:
    """Predict the clean images with every target, keep what an earlier run found, and write clean.json.

    Returns it, and the targets that could not predict, with the reason.
    """
    data = workbench(work.context).data
    snapshot, folder = work.snapshot, work.report.folder
    known: dict[str, Predictions] = {}
    if (folder / "clean.json").is_file():
        before = read_clean(folder)
        if before.suite_digest == snapshot.digest:
            known = dict(before.predictions)
    found, failed = _score(work, "clean images", None, data.images, [t for t in targets if t not in known])
    known.update(found)
    clean = Clean(
        suite=snapshot.suite.name,
        suite_version=snapshot.suite.version,
        suite_digest=snapshot.digest,
        labels=Predictions(data.labels.numpy()),
        ids=data.ids,
        predictions={t: known[t] for t in snapshot.suite.target_names if t in known},
    )
    write_clean(folder, clean)
    return clean, failed


def gate(bench: Workbench, clean: Mapping[str, Predictions]) -> dict[str, str]:
    """Return the models whose clean accuracy falls short of the registry's claim: a wrong file, offset or normalisation."""
    blocked = {}
    labels = bench.data.labels.numpy()
    for name, predicted in clean.items():
        claim = bench.registry[name].clean_accuracy
        n = len(labels)
        correct = int((predicted.array == labels).sum())
        high = 100 * wilson(correct, n)[1]
        if claim is not None and claim.top1 > high and claim.top1 - 100 * correct / n > bench.suite.tolerance:
            found = f"{100 * correct / n:.1f} % of the clean images, {claim.top1:.1f} % claimed"
            blocked[name] = f"{name} classifies {found}; see zoo eval {name}"
    return blocked


def _missing(bench: Workbench, jobs: Iterable[Job], blocked: Mapping[str, str]) -> dict[Job, str]:
    """Return the jobs whose substitute cannot take part, with the reason."""
    reasons = {job: [blocked[m] for m in bench.suite.substitute(job.substitute).models if m in blocked] for job in jobs}
    return {job: found[0] for job, found in reasons.items() if found}


def _note_absent(report: Report, missing: Mapping[Job, str], tried: Iterable[Job] = ()) -> None:
    """Record the rows that cannot be made, so that a board shows them missing; those that are tried again are forgotten."""
    rows = {(row.substitute, row.attack): row for row in read_absent(report.folder).rows}
    for job in tried:
        rows.pop((job.substitute, job.attack), None)
    for job, reason in missing.items():
        rows[job.substitute, job.attack] = Absent(substitute=job.substitute, attack=job.attack, reason=reason)
    write_absent(report.folder, AbsentRows(rows=tuple(rows[key] for key in sorted(rows))))


def _job(work: Work, job: Job, clean: Clean, targets: list[str]) -> None:
    """Make one row, or keep the one that is there; one that cannot be made, or a target that fails, leaves the others be."""
    context, report = work.context, work.report
    bench = workbench(context)
    template = _template(bench, job, work.snapshot)
    path = report.folder / "rows" / template(outcomes={}, failures={"none": "-"}).filename
    known = _known(path, template)
    if known is not None and all(t in known.outcomes or t in report.blocked for t in targets):
        report.reused.append(path)
        return
    title = f"{job.substitute} x {job.attack}" + (f" seed {job.seed}" if job.seed else "")
    try:
        crafted = _craft(work, f"crafting {title}", job)
    except MachineError:
        raise
    except UserError as error:
        report.blocked[title] = f"{title}: {error}"
        _note_absent(report, {job: report.blocked[title]})
        return
    others = {t: outcome for t, outcome in known.outcomes.items() if t not in targets} if known else {}
    if known is not None and known.images_sha256 != shards.digest(crafted.images):  # other code: what is there is scored anew
        gone = absent_models(bench, others)
        targets, others = [*targets, *(t for t in others if t not in gone and t in clean.predictions)], {}
    ready = [t for t in targets if t not in report.blocked]
    found, failed = _score(work, f"scoring {title}", job, crafted.images, ready)
    outcomes = others | {t: Outcome(clean=clean.predictions[t], adv=adv) for t, adv in found.items()}
    reasons = {**(known.failures if known else {}), **report.blocked, **failed}
    order = context.suite.target_names
    row = template(
        outcomes={t: outcomes[t] for t in order if t in outcomes},
        failures={t: reasons.get(t, "not run") for t in order if t not in outcomes},
        crafted=crafted,
    )
    report.written.append(write_row(report.folder, row))


def _craft(work: Work, title: str, job: Job) -> Crafted:
    """Have the blocks crafted that the cache lacks, keep each as it comes, and return all images.

    Raises:
        UserError: a block cannot be crafted; the blocks after it are not tried.
    """
    context = work.context
    key = workbench(context).craft_key(job.substitute, job.attack, job.seed)
    blocks = lacking(context, job)
    tasks = [(block,) for block in blocks]  # one each: what a worker holds is lost when it is killed
    for done, (_, result) in enumerate(work.executor.run(partial(make_blocks, context, job, key), tasks), 1):
        if isinstance(result, UserError):
            raise result
        for made in result:
            keep(context, key, made)
        work.notify(title, done, len(blocks))
    return collect(context, job)


def _score(
    work: Work, title: str, job: Job | None, images: Tensor, targets: Iterable[str]
) -> tuple[dict[str, Predictions], dict[str, str]]:
    """Return the models' predictions on images, from the cache where it has them, and the reasons of those that fail."""
    context = work.context
    bench = workbench(context)
    known = {target: shards.read(score_path(context, job, target)) for target in targets}
    found = {target: Predictions(shard[0].numpy()) for target, shard in known.items() if shard is not None}
    todo = [(target, bench.identity(target)) for target in targets if target not in found]
    shipped = None if work.executor.sees_cache else images.numpy()
    failed: dict[str, str] = {}
    for (target, _), result in work.executor.run(partial(predictions, context, job, shipped), todo):
        if isinstance(result, MachineError):
            raise result
        if isinstance(result, UserError):
            failed[target] = f"{target}: {result}"
            continue
        adv = np.array(result)
        shards.write(score_path(context, job, target), torch.from_numpy(adv))
        found[target] = Predictions(adv)
        work.notify(title, len(found), len(known))
    return found, failed


def _template(bench: Workbench, job: Job, snapshot: Snapshot) -> Callable[..., Row]:
    """Return what makes the job's row once its outcomes are known."""
    attack = bench.attack(job.attack)
    cost = attack.cost(bench.suite.steps)
    weights = [bench.sha256(m) for m in bench.suite.substitute(job.substitute).models]

    def make(outcomes: dict[str, Outcome], failures: dict[str, str], crafted: Crafted | None = None) -> Row:
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
            job_sha256=bench.job_key(job.substitute, job.attack, job.seed),
            images_sha256=shards.digest(crafted.images) if crafted else "0" * 64,
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


def _known(path: Path, template: Callable[..., Row]) -> Row | None:
    """Return the row that is there, with as many targets as it has, when it is of this suite and this job."""
    if not path.is_file():
        return None
    row = read_row(path)
    fresh = template(outcomes={}, failures={"none": "-"})
    return row if all(getattr(row, key) == getattr(fresh, key) for key in ("suite_digest", "job_sha256", "limit")) else None
