"""What a bundle says it is for, held against the suite and the registry, before anything in it is run or scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records.rows import Controls, Submitted
from harness.runs.workspace import Workspace, open_workspace
from harness.submit.bundle import Bundle, JobRecord
from harness.submit.images import MAX_HEADER, check_attacked, check_ball, read_part
from harness.submit.make import CraftedImages, inputs_of, substitute_sha256
from harness.submit.record import FILE, Source
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.errors import UserError


@dataclass(frozen=True)
class Claim:
    """A bundle whose words were checked and whose images were not."""

    bundle: Bundle
    source: Source
    workspace: Workspace
    jobs: dict[Job, JobRecord]

    @property
    def suite(self) -> Suite:
        """The suite that it is for."""
        return self.workspace.suite

    def submitted(self, isolation: str | None, controls: Controls | None = None) -> Submitted:
        """Return what a row says of where it comes from."""
        submission = self.source.submission
        return Submitted(
            authors=submission.authors,
            paper=submission.paper,
            license=submission.license,
            source_sha256=self.source.sha256,
            bundle_sha256=self.bundle.sha256,
            isolation=isolation,
            controls=controls,
        )

    def images(self, job: Job) -> CraftedImages | None:
        """Return a job's images, held against the clean ones; None when the bundle has none.

        Raises:
            UserError: they break a rule of the suite.
        """
        record, data = self.jobs[job], self.workspace.data
        if record.images not in self.bundle.manifest.parts:
            return None
        limit = 8 + MAX_HEADER + data.images.numel()
        where = f"{self.bundle.path}: {record.images}"
        images = read_part(self.bundle.read(record.images, limit), data.images, data.ids, where)
        check_ball(images, data.images, self.suite.budget.levels, data.ids, where)
        check_attacked(images, data.images, where)
        return CraftedImages(images, 0, 0, 0.0)


def open_claim(path: Path, device: str, overlays: Sequence[str], suite: Suite | None = None) -> Claim:
    """Open a bundle and check all that it says of itself against the suite and the registry.

    Raises:
        UserError: it is damaged, or made for other images, settings, substitutes or seeds.
    """
    from harness.suites.suite import load, names

    bundle = Bundle(path)
    manifest, source = bundle.manifest, bundle.source()
    if suite is None and manifest.suite not in names():  # such a name may be a file's
        raise UserError(f"{path}: made for the suite {manifest.suite!r}, which is not one of ours; give its file by --suite")
    suite = suite or load(manifest.suite)
    if (suite.name, suite.version) != (manifest.suite, manifest.suite_version):
        raise UserError(
            f"{path}: made for {manifest.suite} v{manifest.suite_version}, here is {suite.name} v{suite.version}; run it again"
        )
    workspace = open_workspace(suite, manifest.limit, device, overlays)
    if workspace.context.limit != manifest.limit:
        raise UserError(f"{path}: made from the first {manifest.limit} images, but {suite.name} has {len(workspace.full)}")
    if inputs_of(workspace) != manifest.inputs_sha256:
        raise UserError(f"{path}: made from other images or settings than those of {suite.name} v{suite.version}; run it again")
    jobs: dict[Job, JobRecord] = {}
    listed = source.submission.substitutes
    for record in manifest.jobs:
        name = suite.substitute(record.substitute).name
        if listed is not None and name not in listed:
            raise UserError(f"{path}: {FILE} does not list the substitute {name!r}")
        if record.substitute_sha256 != substitute_sha256(workspace, name):
            raise UserError(f"{path}: made on other weights of {name!r} than the registry's; pull them and run it again")
        jobs[Job(name, source.submission.name, record.seed)] = record
    for name in dict.fromkeys(job.substitute for job in jobs):
        if {job.seed for job in jobs if job.substitute == name} != set(suite.seeds):
            raise UserError(f"{path}: {name!r} is not there for just the suite's seeds {list(suite.seeds)}; nobody picks seeds")
    return Claim(bundle, source, workspace, jobs)
