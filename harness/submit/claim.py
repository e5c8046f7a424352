"""A bundle's own words held against the suite and the registry, before anything in it is run or scored."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.records.rows import Row, Submitted
from harness.runs.workspace import Workspace, open_workspace
from harness.storage.files import describe
from harness.submit.bundle import ROWS, Bundle, JobRecord
from harness.submit.images import MAX_HEADER, check_attacked, check_ball, read_part
from harness.submit.make import Made, inputs_of, substitute_sha256
from harness.submit.record import FILE, Source
from harness.suites.selection import Job
from harness.suites.suite import Suite
from zoo.errors import UserError

MAX_ROW = 4 * 2**20


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

    def submitted(self, isolation: str | None) -> Submitted:
        """Return what a row says of where it comes from."""
        submission = self.source.submission
        return Submitted(
            authors=submission.authors,
            paper=submission.paper,
            license=submission.license,
            source_sha256=self.source.sha256,
            bundle_sha256=self.bundle.sha256,
            isolation=isolation,
        )

    def images(self, job: Job) -> Made | None:
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
        return Made(images, 0, 0, record.seconds)

    def row(self, job: Job, suite_digest: str) -> Row | None:
        """Return the row that the bundle claims for a job; None when it claims none.

        Raises:
            UserError: it is malformed, or of something else than the job.
        """
        name = f"{ROWS}/{job.substitute}--{job.attack}--s{job.seed}--claimed.json"
        if name not in self.bundle.manifest.parts:
            return None
        where = f"{self.bundle.path}: {name}"
        row = read_claim(self.bundle.read(name, MAX_ROW), self.suite.target_names, len(self.workspace.data), where)
        expected = (self.suite.name, self.suite.version, job.attack, job.substitute, job.seed, self.workspace.context.limit)
        found = (row.suite, row.suite_version, row.attack, row.substitute, row.seed, row.limit)
        if found != expected or row.evidence != "claimed":
            raise UserError(f"{where}: it is the row of something else ({row.filename} of {row.suite} v{row.suite_version})")
        if row.suite_digest != suite_digest:
            raise UserError(
                f"{where}: its targets or images are others (suite digest {row.suite_digest[:12]}, here {suite_digest[:12]})"
            )
        return row


def read_claim(data: bytes, targets: Sequence[str], images: int, where: str) -> Row:
    """Read a stranger's row: what its predictions unpack to is bounded before they are unpacked.

    Raises:
        UserError: it is malformed, names targets that the suite does not have, or has too many predictions.
    """
    try:
        content = json.loads(data)
        outcomes: dict[str, Any] = content["outcomes"]
        texts = [text for outcome in outcomes.values() for text in outcome.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: not a row ({type(error).__name__})") from error
    foreign = [t for t in outcomes if t not in targets]
    if foreign:
        raise UserError(f"{where}: the suite has no target {foreign[0][:80]!r}")
    for text in texts:
        try:
            raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 2 * images + 1)
        except (binascii.Error, zlib.error, TypeError, ValueError) as error:
            raise UserError(f"{where}: damaged predictions ({error})") from error
        if len(raw) != 2 * images:
            raise UserError(f"{where}: its predictions are not of the {images} images of the suite")
    try:
        return Row.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error)[:400]}") from error


def open_claim(path: Path, device: str, overlays: Sequence[str], suite: Suite | None = None) -> Claim:
    """Open a bundle and check all that it says of itself against the suite and the registry.

    Raises:
        UserError: it is damaged, or made for other images, settings, substitutes or seeds.
    """
    from harness.suites.suite import load

    bundle = Bundle(path)
    manifest, source = bundle.manifest, bundle.source()
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
