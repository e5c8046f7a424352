"""The main job, stage by stage: own the folder, admit models, craft, score, record; interrupted work goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from harness.records.rows import Clean, Outcome, write_row
from harness.runs.admission import absent_models, admit
from harness.runs.craft import craft_job
from harness.runs.executors import open_executor
from harness.runs.executors.local import guarded, single_thread
from harness.runs.executors.watched import Watched
from harness.runs.lacking import summed
from harness.runs.ownership import own_folder
from harness.runs.parity import compare_with_exact
from harness.runs.recording import known_row, note_absent, row_maker
from harness.runs.score import score_images
from harness.runs.stage import ROWS, Notify, Report, Stage
from harness.runs.unfinished import Request, remembered
from harness.runs.workspace import Context, Workspace, describe, forget, open_workspace, workspace_of
from harness.storage import shards
from harness.storage.lock import cache_in_use, exclusive
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.devices import check_device
from zoo.errors import MachineError, TaskError, UserError
from zoo.loading.engines import black_box_sentence


def suite_folder(out: Path, suite: Suite, limit: int | None, how: str | None = None, full: bool = False) -> Path:
    """Return the folder of a suite's version; runs over fewer images, over all that the data set has beyond the suite's, or in
    another precision, go beside it, never into it."""
    parts = [f"v{suite.version}"] + ["full"] * full + [f"limit{limit}"] * (limit is not None) + [how] * (how is not None)
    return out / suite.name / "-".join(str(part) for part in parts)


def run(suite: Suite, request: Request, out: Path, notify: Notify | None = None) -> Report:
    """Run a suite, or the part of it that is asked for, into `out`/<suite>/v<version>.

    This process is the only one that writes: workers hand over what they made. `queue` of the request decides how many
    images wait at a worker, rounded up to whole blocks, never what is computed.

    Raises:
        UserError: unknown names, an unusable device or folder, or no job could run at all.
    """
    full = request.full and suite.data.limit is not None
    selection, suite = request.selection.bring(suite.over_all_images() if full else suite)
    jobs = selection.jobs(suite)
    if request.executor == "local":
        check_device(request.device)
    single_thread()
    forget()
    for name in dict.fromkeys(job.attack for job in jobs):
        workspace_of(Context(suite, request.overlays, request.device)).attack(name)
    precise = (request.precision, request.compiled)
    workspace = open_workspace(suite, request.limit, request.device, request.overlays, *precise)
    context = workspace.context
    report = Report(suite_folder(out, suite, context.limit, context.how, full))
    targets = [t for t in suite.target_names if not selection.targets or t in selection.targets]
    substitutes = dict.fromkeys(m for job in jobs for m in suite.substitute(job.substitute).models)
    for model in substitutes:
        if workspace.registry[model].engine is not None:
            raise UserError(black_box_sentence(workspace.registry[model]))
    blocked = absent_models(workspace, [*targets, *substitutes])
    pinned = describe(workspace, blocked)
    waiting = None if request.queue is None else -(-request.queue // suite.block)
    executor = open_executor(request.executor, request.device, request.workers, request.address, request.gpus, waiting)
    with exclusive(report.folder), cache_in_use(context.cache_folder):
        pinned = own_folder(report.folder, pinned)
        with executor as opened, remembered(report.folder, request, suite):
            workspace.hardware = opened.hardware(request.device)  # a cluster's device need not be in this machine
            watched = Watched(opened, report.crash, request.fail_fast)
            stage = Stage(context, pinned, watched, notify or (lambda what, done, total: None), report)
            here = [[m for m in models if m not in blocked] for models in (targets, substitutes)]
            clean, failed = admit(stage, *here)
            report.blocked = blocked = blocked | failed
            missing = _missing(workspace, jobs, blocked)
            note_absent(report, missing, jobs)
            for done, job in enumerate(jobs):
                stage.notify(ROWS, done, len(jobs))
                if job in missing:
                    report.blocked[job.substitute] = missing[job]
                else:
                    _job(stage, job, clean, targets)
            stage.notify(ROWS, len(jobs), len(jobs))
    if not report.written and not report.reused:
        reasons = "; ".join(summed(report.blocked, workspace.registry, request.suite or suite.name))
        raise UserError(f"nothing of suite {suite.name} could run: {reasons}")
    return report


def _missing(workspace: Workspace, jobs: Iterable[Job], blocked: Mapping[str, str]) -> dict[Job, str]:
    """Return the jobs whose substitute cannot take part, with the reason."""
    reasons = {job: [blocked[m] for m in workspace.suite.substitute(job.substitute).models if m in blocked] for job in jobs}
    return {job: found[0] for job, found in reasons.items() if found}


def _job(stage: Stage, job: Job, clean: Clean, targets: list[str]) -> None:
    """Make one row, or keep the one that is there; one that cannot be made, or a target that fails, leaves the others be."""
    context, report = stage.context, stage.report
    workspace = workspace_of(context)
    title = f"{job.substitute} x {job.attack}" + (f" seed {job.seed}" if job.seed else "")
    template = guarded(partial(row_maker, workspace, job), stage.pinned)  # asks the attack what it costs
    if isinstance(template, UserError):
        _failed(stage, job, title, template)
        return
    path = report.folder / "rows" / template(outcomes={}, failures={"none": "-"}).filename
    known = known_row(path, template)
    if known is not None and all(t in known.outcomes or t in report.blocked for t in targets):
        report.reused.append(path)
        return
    try:
        crafted = craft_job(stage, f"crafting {title}", job)
    except MachineError:
        raise
    except UserError as error:
        _failed(stage, job, title, error)
        return
    others = {t: outcome for t, outcome in known.outcomes.items() if t not in targets} if known else {}
    if known is not None and known.images_sha256 != shards.digest(crafted.images):  # other code: what is there is scored anew
        gone = absent_models(workspace, others)
        targets, others = [*targets, *(t for t in others if t not in gone and t in clean.predictions)], {}
    ready = [t for t in targets if t not in report.blocked]
    found, failed = score_images(stage, f"scoring {title}", job, crafted.images, ready)
    outcomes = others | {t: Outcome(clean=clean.predictions[t], adv=adv) for t, adv in found.items()}
    reasons = {**(known.failures if known else {}), **report.blocked, **failed}
    order = context.suite.target_names
    row = template(
        outcomes={t: outcomes[t] for t in order if t in outcomes},
        failures={t: reasons.get(t, "not run") for t in order if t not in outcomes},
        crafted=crafted,
    )
    report.written.append(write_row(report.folder, row))
    if context.how is not None:
        compare_with_exact(stage, job, outcomes)


def _failed(stage: Stage, job: Job, title: str, error: UserError) -> None:
    """Record a job that cannot be done as missing."""
    if isinstance(error, TaskError):
        stage.report.crash(error)
    stage.report.blocked[title] = f"{title}: {error}"
    note_absent(stage.report, {job: stage.report.blocked[title]})
