"""The stage that records: the row of a job, the one that is there already, and the rows that could not be made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from harness.records.pinned import PinnedSuite
from harness.records.provenance import provenance
from harness.records.rows import Absent, AbsentRows, Cost, Outcome, Row, read_absent, read_row, write_absent
from harness.runs.craft import Crafted, max_level
from harness.runs.similarity import size
from harness.runs.sources import CRAFTING, code_digest
from harness.runs.stage import Report
from harness.runs.workspace import Workspace
from harness.storage import shards
from harness.suites.selection import Job


def row_maker(workspace: Workspace, job: Job, pinned: PinnedSuite) -> Callable[..., Row]:
    """Return what makes the job's row once its outcomes are known."""
    attack = workspace.attack(job.attack)
    cost = attack.cost(workspace.suite.steps)
    weights = [workspace.sha256(m) for m in workspace.suite.substitute(job.substitute).models]

    def make(outcomes: dict[str, Outcome], failures: dict[str, str], crafted: Crafted | None = None) -> Row:
        return Row(
            suite=workspace.suite.name,
            suite_version=workspace.suite.version,
            suite_digest=pinned.digest,
            attack=job.attack,
            composition=repr(attack),
            substitute=job.substitute,
            substitute_sha256=weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest(),
            seed=job.seed,
            limit=workspace.context.limit,
            job_sha256=workspace.job_key(job.substitute, job.attack, job.seed),
            images_sha256=shards.digest(crafted.images) if crafted else "0" * 64,
            max_level=max_level(crafted.images, workspace.data.images) if crafted else 0,
            size=size(crafted.images, workspace.data.images, workspace.context.device) if crafted else None,
            outcomes=outcomes,
            failures=failures,
            cost=Cost(
                forwards=cost.forwards if cost else None,
                backwards=cost.backwards if cost else None,
                seconds=round(crafted.seconds, 3) if crafted else 0.0,
                device=workspace.context.device,
            ),
            provenance=provenance(
                workspace.hardware, workspace.context.how, workspace.engines(outcomes), code_digest(*CRAFTING)
            ),
        )

    return make


def known_row(path: Path, template: Callable[..., Row]) -> Row | None:
    """Return the row that is there, with as many targets as it has, when it is of this suite and this job."""
    if not path.is_file():
        return None
    row = read_row(path)
    fresh = template(outcomes={}, failures={"none": "-"})
    return row if all(getattr(row, key) == getattr(fresh, key) for key in ("suite_digest", "job_sha256", "limit")) else None


def note_absent(report: Report, missing: Mapping[Job, str], tried: Iterable[Job] = ()) -> None:
    """Record the rows that cannot be made, so that a board shows them missing; those that are tried again are forgotten."""
    rows = {(row.substitute, row.attack, row.seed): row for row in read_absent(report.folder).rows}
    for job in tried:
        rows.pop((job.substitute, job.attack, job.seed), None)
    for job, reason in missing.items():
        absent = Absent(substitute=job.substitute, attack=job.attack, seed=job.seed, reason=reason)
        rows[job.substitute, job.attack, job.seed] = absent
    write_absent(report.folder, AbsentRows(rows=tuple(rows[key] for key in sorted(rows))))
