"""What a run would do: its jobs, the models it needs, what is done already, and an estimate of time and disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.records.pinned import PinnedSuite
from harness.records.rows import read_absent, read_rows
from harness.runs.craft import shard_path, spans
from harness.runs.estimate import Pace
from harness.runs.estimate import measure as measure_pace
from harness.runs.runner import suite_folder
from harness.runs.unfinished import Request
from harness.runs.workspace import Context, Workspace, open_workspace, workspace_of
from harness.suites.selection import Job, Selection
from harness.suites.suite import Suite
from zoo.errors import UserError
from zoo.hub.pulling import availability, whereabouts
from zoo.registry.entry import ModelEntry


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
    data_missing: str | None = None
    """Why the images of the suite are not here; their number is then that of the data set, as far as it is known."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)


_KNOWN = {
    "cifar10": (10_000, 3 * 32 * 32),
    "imagenet-compatible": (1_000, 3 * 299 * 299),
    "imagenet": (50_000, 3 * 224 * 224),
    "imagenet-299": (50_000, 3 * 299 * 299),
}
"""Images of the test split, and bytes of one, for plans where the images are not here."""


def planned_workspace(suite: Suite, request: Request) -> Workspace:
    """Return the workspace of a run that is planned; its images need not be here."""
    precise = (request.precision, request.compiled)
    try:
        return open_workspace(suite, request.limit, request.device, request.overlays, *precise)
    except UserError:
        context = Context(suite, request.overlays, request.device, request.limit, None, *precise)
        return workspace_of(context)


def plan(workspace: Workspace, selection: Selection, out: Path, measure: bool = True) -> Plan:
    """Plan a run; with `measure`, time one batch of each model that is here. Nothing is downloaded but the suite's images."""
    suite = workspace.suite
    count, each, lost = _images(workspace)
    selected = selection.jobs(suite)
    targets = [t for t in suite.target_names if not selection.targets or t in selection.targets]
    substitutes = list(dict.fromkeys(m for j in selected for m in suite.substitute(j.substitute).models))
    afar = set(whereabouts({*targets, *substitutes}, workspace.registry)["pull"])
    absent = {name: reason for name in {*targets, *substitutes} - afar if (reason := _absent(workspace, name))}
    gone = {*absent, *afar}
    chosen = dict.fromkeys(j.substitute for j in selected)
    ready = [name for name in chosen if not any(m in gone for m in suite.substitute(name).models)]
    pace = measure_pace(workspace, ready, [t for t in targets if t not in gone]) if measure and not lost else Pace()
    folder = suite_folder(out, suite, workspace.context.limit, workspace.context.how)
    unseen = [job for job in selected if lost or job.substitute not in ready]
    jobs = [_job(workspace, job, folder, absent, pace, 0 if job in unseen else None, count) for job in selected]
    models = [_model(workspace.registry[n], "substitute", absent.get(n)) for n in substitutes]
    models += [_model(workspace.registry[n], "target", absent.get(n)) for n in targets]
    left = [j for j in jobs if not j.row and j.missing is None]
    scoring = sum(pace.scoring.values()) * count * (len(left) + bool(left))  # and the clean images, once
    loading = sum(pace.loading.values()) if left else 0.0
    seconds = sum(j.seconds or 0.0 for j in left) + scoring + loading if pace.loading else None
    disk = sum(j.images - j.done for j in left) * each
    return Plan(suite.name, suite.version, workspace.context.device, count, jobs, _distinct(models), seconds, disk, lost)


def _images(workspace: Workspace) -> tuple[int, int, str | None]:
    """Return how many images a run takes, the bytes of one, and why they are not here."""
    try:
        data = workspace.data
    except UserError as error:
        known, each = _KNOWN.get(workspace.suite.data.name, (0, 0))
        limits = (workspace.context.limit, workspace.suite.data.limit, known)
        return min((limit for limit in limits if limit), default=0), each, str(error)
    return len(data), data.images[0].numel() if len(data) else 0, None


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
    workspace: Workspace, job: Job, folder: Path, absent: dict[str, str], pace: Pace, done: int | None, count: int
) -> JobPlan:
    """Plan one job; `done` is how many of its images are there, None where that can be looked up."""
    models = workspace.suite.substitute(job.substitute).models
    cost = workspace.attack(job.attack).cost(workspace.suite.steps)
    missing = next((absent[m] for m in models if m in absent), None)
    if missing is None and done is None:
        key = workspace.craft_key(job.substitute, job.attack, job.seed)
        covered = spans(count, workspace.suite.block)
        done = sum(stop - start for start, stop in covered if shard_path(workspace.context, key, start, stop).is_file())
    done = done or 0
    left = count - done
    each = pace.of(job.substitute, job.attack, cost)
    return JobPlan(
        name=f"{job.substitute}--{job.attack}--s{job.seed}",
        substitute=job.substitute,
        attack=job.attack,
        seed=job.seed,
        images=count,
        done=done,
        row=(folder / "rows" / f"{job.substitute}--{job.attack}--s{job.seed}.json").is_file(),
        forwards=cost.forwards * left if cost else None,
        backwards=cost.backwards * left if cost else None,
        seconds=None if each is None else each * left,
        missing=missing,
    )


def status(suite: Suite, folder: Path) -> list[dict[str, Any]]:
    """Return for every row of a suite whether it is done, partial, missing for a known reason, or still to do."""
    there = {(r.substitute, r.attack, r.seed): r for r in read_rows(folder)}
    absent = {(a.substitute, a.attack, a.seed): a.reason for a in read_absent(folder).rows}
    rows: list[dict[str, Any]] = []
    selection, suite = Selection().bring(suite)
    for job in selection.jobs(suite):
        asked = (job.substitute, job.attack, job.seed)
        row, reason = there.get(asked), absent.get(asked)
        if row is not None:
            state, reason = ("partial", next(iter(row.failures.values()))) if row.failures else ("done", None)
        else:
            state = "missing" if reason else "to do"
        rows.append({"name": f"{job.substitute}--{job.attack}--s{job.seed}", "state": state, "reason": reason})
    return rows


def at_version(suite: Suite, out: Path, limit: int | None, version: int | None) -> Suite:
    """Return a suite as a version of it was run: the one asked for, or the newest with rows or with a run that stopped.

    A version of which nothing is there is the suite itself, when it has that number.

    Raises:
        UserError: another version is asked for, of which nothing is there.
    """
    if version is None:
        tail = "" if limit is None else f"-limit{limit}"
        known = {p.name[1:].removesuffix(tail): p for p in (out / suite.name).glob(f"v*{tail}")}
        begun = [int(n) for n, p in known.items() if n.isdigit() and any((*p.glob("rows/*.json"), *p.glob("run.json")))]
        version = max(begun, default=suite.version)
    if version == suite.version:
        return suite
    return PinnedSuite.read(suite_folder(out, suite.model_copy(update={"version": version}), limit)).suite


def others(suite: Suite, folder: Path) -> list[tuple[str, int, str]]:
    """Return the suite's other folders, the rows in each, and the options of `harness status` that show it."""
    found = []
    for path in sorted(folder.parent.glob("v*")):
        count = sum(1 for _ in (path / "rows").glob("*.json"))
        if path == folder or not count:
            continue
        version, _, limit = path.name[1:].partition("-limit")
        asked = [f"--version {version}"] * (version != str(suite.version)) + [f"--limit {limit}"] * bool(limit)
        found.append((path.name, count, " ".join(asked) if version.isdigit() and (limit.isdigit() or not limit) else ""))
    return found
