"""What a run would do: its jobs, the models it needs, what is done already, and an estimate of time and disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.records.rows import read_absent, read_rows
from harness.runs.craft import shard_path, spans
from harness.runs.estimate import Pace
from harness.runs.estimate import measure as measure_pace
from harness.runs.runner import suite_folder
from harness.runs.workspace import Workspace
from harness.suites.selection import Job, Selection
from harness.suites.suite import Suite
from zoo.errors import UserError
from zoo.hub.pulling import availability
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
    chosen = dict.fromkeys(j.substitute for j in selected)
    ready = [name for name in chosen if not any(m in absent for m in suite.substitute(name).models)]
    pace = measure_pace(workspace, ready, [t for t in targets if t not in absent]) if measure else Pace()
    folder = suite_folder(out, suite, workspace.context.limit, workspace.context.how)
    jobs = [_job(workspace, job, folder, absent, pace) for job in selected]
    models = [_model(workspace.registry[n], "substitute", absent.get(n)) for n in substitutes]
    models += [_model(workspace.registry[n], "target", absent.get(n)) for n in targets]
    left = [j for j in jobs if not j.row and j.missing is None]
    scoring = sum(pace.scoring.values()) * len(workspace.data) * (len(left) + bool(left))  # and the clean images, once
    loading = sum(pace.loading.values()) if left else 0.0
    seconds = sum(j.seconds or 0.0 for j in left) + scoring + loading if pace.loading else None
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
    workspace: Workspace, job: Job, folder: Path, absent: dict[str, str], pace: Pace
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
    each = pace.of(job.substitute, job.attack, cost)
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


def others(suite: Suite, folder: Path) -> list[tuple[str, int, str]]:
    """Return the suite's other folders of the version, the rows in each, and the option of `harness status` that shows it."""
    found = []
    for path in (*sorted(folder.parent.glob(f"v{suite.version}-*")), folder.parent / f"v{suite.version}"):
        count = sum(1 for _ in (path / "rows").glob("*.json"))
        if path != folder and count:
            limit = path.name.partition("-limit")[2]
            asked = f"--limit {limit}" if limit.isdigit() else ""
            found.append((path.name, count, asked))
    return found
