"""What a run leaves behind: rows of per-image outcomes, clean predictions, and where they came from."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from harness.records import chain
from harness.records.predictions import Predictions
from harness.storage.files import atomic_write, read_record, remove
from zoo.errors import UserError
from zoo.registry.entry import Name, Record, Sha256

__all__ = [
    "Absent",
    "AbsentRows",
    "Clean",
    "Cleared",
    "Controls",
    "Cost",
    "Dispute",
    "Evidence",
    "Outcome",
    "Predictions",
    "Provenance",
    "Row",
    "Size",
    "Submitted",
    "atomic_write",
    "read_absent",
    "read_clean",
    "read_row",
    "read_rows",
    "write_absent",
    "write_clean",
    "write_row",
]

Evidence = Literal["claimed", "rescored", "regenerated"]
"""How far a row is to be trusted.

`claimed`: as its submitter reports it. `rescored`: we ran the targets on the submitted images. `regenerated`: we also
made the images ourselves from the attack's code.
"""

Created = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
_REMAKE = "restore it from version control, or delete it and run the suite again"


class Outcome(Record):
    """What one target predicts on every image of a row."""

    clean: Predictions
    """Predicted class of each clean image."""
    adv: Predictions
    """Predicted class of each adversarial image."""

    @model_validator(mode="after")
    def _same_images(self) -> Outcome:
        if len(self.clean) != len(self.adv):
            raise ValueError(f"clean has {len(self.clean)} predictions but adv has {len(self.adv)}")
        return self


class Cost(Record):
    """What crafting a row took."""

    forwards: int | None = Field(ge=0)
    """Forward passes of the substitute per image; null when the attack does not declare them."""
    backwards: int | None = Field(ge=0)
    """Backward passes of the substitute per image, likewise."""
    seconds: float = Field(ge=0)
    """Wall-clock time of crafting all images; measured, so not part of the canonical row."""
    device: str
    """Where it ran: cpu, cuda:0, or a device's full name."""


class Size(Record):
    """How large the perturbations of a row are, as means over its images; attacks may fill the same ball by more or less."""

    l2: float = Field(ge=0)
    """Euclidean norm of adv - x in [0, 1] pixel units."""
    ssim: float = Field(ge=-1, le=1)
    """Structural similarity of adv and x (Wang et al. 2004); 1 is no visible change."""


class Provenance(Record):
    """What made a row, to make it again."""

    package: str
    """Version of this package."""
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}(-dirty)?$")] | None
    """Git commit of the working copy, `-dirty` when it had uncommitted changes; null outside a repository."""
    torch: str
    """Version of torch."""
    timm: str
    """Version of timm."""
    python: str
    """Version of Python."""
    platform: str
    """Operating system and machine."""
    hardware: str | None = None
    """Name of the GPU with the versions of CUDA and cuDNN, or the CPU's instructions; null in rows that were made elsewhere."""
    precision: str | None = None
    """How it was computed where that was not exact: tf32, bf16, with -compiled; null is float32 with deterministic kernels."""
    engines: dict[Name, str] | None = None
    """Per deployed target: engine, version, delegate and the CPU's instructions; null without such targets."""
    code: Sha256 | None = None
    """Digest of the code that made the images, without comments and docstrings; null in rows from before it was recorded."""
    created: Created
    """When, in UTC, as 2026-01-31T12:00:00Z; not part of the canonical row."""


Share = Annotated[float, Field(ge=0, le=1)]


class Controls(Record):
    """Whether an attack needs its substitute and its images: success on a sample, as rates in [0, 1] over black-box targets."""

    seed: int = Field(ge=0)
    """Seed of the sample and of all that was changed for the controls."""
    images: int = Field(ge=1)
    """Images in the sample."""
    success: Share
    """As the row has it: the suite's substitute and images."""
    noise: Share
    """What noise alone does within the same budget, the best of several grains."""
    decoys: tuple[Share, ...] = Field(min_length=1)
    """On substitutes of the same architecture with other weights, which classify the sample as well."""
    moved: Share
    """On images moved by one level, with the substitute's weights nudged."""
    hidden: Share | None
    """On images that the suite holds back; null when they were not at hand."""


class Cleared(Record):
    """A maintainer's word that a verdict of `different` has an innocent cause."""

    by: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """Who says so."""
    because: Annotated[str, StringConstraints(min_length=1, max_length=400)]
    """Why."""
    created: Created
    """When."""


class Dispute(Record):
    """A verification that found other outcomes than the row's."""

    seed: int = Field(ge=0)
    """Seed of the sample."""
    images: int = Field(ge=1)
    """Images made again."""
    differing: int = Field(ge=0)
    """Predictions that differ, over all targets."""
    predictions: int = Field(ge=0)
    """Predictions compared."""
    created: Created
    """When."""
    cleared: Cleared | None = None
    """Who cleared it; null while it stands."""


class Submitted(Record):
    """Where a submitted row comes from."""

    authors: tuple[str, ...] = Field(min_length=1)
    """Who made the attack."""
    paper: str | None
    """Where it is published."""
    license: str
    """Licence of its code or images."""
    source_sha256: Sha256 | None
    """Digest of the submitted code; null when only images were submitted."""
    bundle_sha256: Sha256
    """Digest of the bundle's pinned, which names the digest of each part."""
    isolation: str | None
    """The walls that the code ran behind; null when it was not run here."""
    controls: Controls | None = None
    """Whether the attack needs its substitute; null when it was not run here."""
    disputes: tuple[Dispute, ...] = ()
    """Verifications that found other outcomes. They stay; a maintainer may clear each by name."""


class Row(Record):
    """One substitute x attack x seed over all targets of a suite."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    suite: Name
    """Name of the suite."""
    suite_version: int = Field(ge=1)
    """Version of the suite."""
    suite_digest: Sha256
    """Digest of the suite with its models and images; a board refuses rows of another."""
    attack: Name
    """Id of the attack."""
    composition: str
    """The repr of the attack, which rebuilds it."""
    substitute: Name
    """Model that the images were crafted on."""
    substitute_sha256: Sha256
    """Digest of that model's weights."""
    seed: int = Field(ge=0)
    """Seed of all random draws."""
    limit: int | None = Field(default=None, ge=1)
    """Only this many first images of the suite were used; null means all."""
    job_sha256: Sha256 | None = None
    """Digest of what was asked for: substitute with its states, attack, images, budget, seed; null for submitted images."""
    images_sha256: Sha256
    """Digest of the adversarial uint8 images."""
    max_level: int = Field(ge=0, le=255)
    """Largest |adv - x| over all bytes, in steps of 1/255."""
    size: Size | None = None
    """How large the perturbations are; null in rows from before it was measured. It follows from the images, whose digest
    the canonical row holds, and is no part of it."""
    outcomes: dict[Name, Outcome]
    """Per target, the predictions on every image."""
    failures: dict[Name, str] = Field(default_factory=dict)
    """Per target that could not be scored, the reason; such cells stay visibly missing."""
    cost: Cost
    """What crafting took."""
    provenance: Provenance
    """What made the row."""
    evidence: Evidence = "regenerated"
    """How far the row is to be trusted."""
    submission: Submitted | None = None
    """Where it comes from when others made it; null for a row of the harness's own attacks."""
    notes: str | None = None
    """Anything a reader should know."""

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        both = sorted(self.outcomes.keys() & self.failures.keys())
        if both:
            raise ValueError(f"target {both[0]!r} has an outcome and a failure")
        if not self.outcomes and not self.failures:
            raise ValueError("a row needs an outcome or a failure for at least one target")
        counts = {target: len(outcome.clean) for target, outcome in self.outcomes.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"targets were scored on different numbers of images: {counts}")
        if self.limit is not None and any(count > self.limit for count in counts.values()):
            raise ValueError(f"limit is {self.limit}, yet there are {max(counts.values())} predictions")
        return self

    @property
    def images(self) -> int:
        """Number of images scored; 0 when every target failed."""
        return next((len(outcome.clean) for outcome in self.outcomes.values()), 0)

    @property
    def filename(self) -> str:
        """Name of the row's file, the same for the same substitute, attack, seed and tier of evidence."""
        tier = "" if self.evidence == "regenerated" else f"--{self.evidence}"
        return f"{self.substitute}--{self.attack}--s{self.seed}{tier}.json"

    def canonical(self) -> bytes:
        """Return everything that a repeated run must reproduce, as bytes: all but the times.

        Predictions stand as plain int16, since zlib's output differs between versions of zlib.
        """
        content: dict[str, Any] = self.model_dump(mode="json", exclude={"outcomes": True, "size": True})
        del content["cost"]["seconds"], content["provenance"]["created"]
        for later in ("hardware", "precision", "engines", "code"):  # rows from before these were recorded keep their digest
            if content["provenance"][later] is None:
                del content["provenance"][later]
        content["outcomes"] = {
            target: {"clean": _base64(outcome.clean.raw), "adv": _base64(outcome.adv.raw)}
            for target, outcome in self.outcomes.items()
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical row, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()


class Clean(Record):
    """What every target predicts on the clean images of a suite."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    suite: Name
    """Name of the suite."""
    suite_version: int = Field(ge=1)
    """Version of the suite."""
    suite_digest: Sha256
    """Digest of the suite with its models and images."""
    labels: Predictions
    """True class of each image."""
    ids: tuple[str, ...]
    """Name of each image, in the same order."""
    predictions: dict[Name, Predictions]
    """Per target, the predicted class of each clean image."""
    made_by: dict[Name, Sha256] = Field(default_factory=dict)
    """Per target, the digest of its weights and of the code, versions and device that predicted; unknown in older files."""

    @model_validator(mode="after")
    def _one_per_image(self) -> Clean:
        if len(self.ids) != len(self.labels):
            raise ValueError(f"there are {len(self.labels)} labels but {len(self.ids)} image ids")
        for target, predicted in self.predictions.items():
            if len(predicted) != len(self.labels):
                raise ValueError(f"{target!r} has {len(predicted)} predictions for {len(self.labels)} images")
        return self


class Absent(Record):
    """A row that a run could not make at all, and why; the board shows it as missing."""

    substitute: Name
    """Model that the images should have been crafted on."""
    attack: Name
    """Id of the attack."""
    seed: int = Field(default=0, ge=0)
    """Seed of its random draws."""
    reason: str = Field(min_length=1)
    """Why there is no row."""


class AbsentRows(Record):
    """The rows that a run could not make."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    rows: tuple[Absent, ...]
    """One for each."""


def write_row(folder: Path, row: Row) -> Path:
    """Write a row into `folder`/rows, record it in the chain of the folder, and return its path."""
    path = folder / "rows" / row.filename
    content = (row.model_dump_json(indent=1) + "\n").encode()
    # recorded first: a run that is killed in between makes the row again, while an unrecorded row would be kept for good
    chain.append(folder, row.filename, hashlib.sha256(content).hexdigest())
    atomic_write(path, content)
    return path


def read_row(path: Path) -> Row:
    """Read one row; a damaged or foreign file is a UserError that names the key."""
    return read_record(path, Row, _REMAKE)


def read_rows(folder: Path) -> Iterator[Row]:
    """Read the rows of `folder`/rows one by one, by name. A file whose name is not its row's is refused."""
    for path in sorted((folder / "rows").glob("*.json")):
        row = read_row(path)
        if path.name != row.filename:
            raise UserError(f"{path}: holds the row of {row.filename}; rename it to that, or delete it")
        yield row


def write_clean(folder: Path, clean: Clean) -> Path:
    """Write `folder`/clean.json and return its path."""
    path = folder / "clean.json"
    atomic_write(path, clean.model_dump_json(indent=1) + "\n")
    return path


def read_clean(folder: Path) -> Clean:
    """Read `folder`/clean.json; a damaged or foreign file is a UserError that names the key."""
    return read_record(folder / "clean.json", Clean, _REMAKE)


def write_absent(folder: Path, absent: AbsentRows) -> None:
    """Write `folder`/absent.json, or remove it when no row is absent."""
    path = folder / "absent.json"
    if absent.rows:
        atomic_write(path, absent.model_dump_json(indent=1) + "\n")
    else:
        remove(path)


def read_absent(folder: Path) -> AbsentRows:
    """Read `folder`/absent.json; without that file no row is absent."""
    path = folder / "absent.json"
    return read_record(path, AbsentRows, _REMAKE) if path.exists() else AbsentRows(rows=())


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
