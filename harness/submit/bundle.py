"""Bundles: one submission's code or images in one zip file or folder, each part under its digest; never rows."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from harness.storage.files import atomic_write, describe
from harness.submit.record import (
    FILE,
    MAX_SOURCE,
    Source,
    Submission,
    check_source,
    decode,
    parse,
    read_plain,
    refuse_link,
)
from zoo.errors import UserError
from zoo.registry.entry import Name, Record, Sha256

MANIFEST = "manifest.json"
MAX_MANIFEST = 2**20
MAX_PARTS = 1000
MAX_PART = 8 * 2**30
SOURCE, IMAGES = "source", "images"
PART = (
    r"^(source/(submission\.yaml|[a-z_][a-z0-9_]{0,60}\.py)"
    r"|images/[a-z0-9][a-z0-9.-]{0,120}\.safetensors)$"
)
PartName = Annotated[str, StringConstraints(pattern=PART)]
LOCATOR = b"PK\x06\x07"
MAX_ZIP_VERSION = 20
SIGNATURE, END, END_BYTES = b"PK\x05\x06", struct.Struct("<4s4H2LH"), 2**16 + 22
_STAMP = (1980, 1, 1, 0, 0, 0)


class Part(Record):
    """One file of a bundle."""

    sha256: Sha256
    size: int = Field(ge=0, le=MAX_PART)


class JobRecord(Record):
    """One substitute x seed that a bundle is about."""

    substitute: Name
    substitute_sha256: Sha256
    seed: int = Field(ge=0)

    @property
    def images(self) -> str:
        """Name of the part that holds the images."""
        return f"{IMAGES}/{self.substitute}--s{self.seed}.safetensors"


class Manifest(Record):
    """What a bundle holds and what it was made for."""

    format: Literal[2]
    submission: Annotated[str, StringConstraints(max_length=200)]
    """Its name; submission.yaml says the same, where it is checked letter by letter."""
    suite: Name
    suite_version: int = Field(ge=1)
    inputs_sha256: Sha256
    """Digest of the images, the budget and the settings that the attack was given."""
    limit: int | None = Field(default=None, ge=1)
    jobs: tuple[JobRecord, ...] = Field(min_length=1, max_length=500)
    parts: dict[PartName, Part]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        keys = [(job.substitute, job.seed) for job in self.jobs]
        if len(set(keys)) != len(keys):
            raise ValueError("a substitute and seed occur twice among the jobs")
        named = {job.images for job in self.jobs}
        for name in self.parts:
            if name.startswith(f"{IMAGES}/") and name not in named:
                raise ValueError(f"{name} belongs to no job")
        if f"{SOURCE}/{FILE}" not in self.parts:
            raise ValueError(f"{SOURCE}/{FILE} is not among the parts")
        return self


class Bundle:
    """An opened bundle. Parts are read one by one and checked against their digests; nothing is unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = None if path.is_dir() else _open_zip(path)
        self.sizes = _folder_sizes(path) if self._zip is None else _zip_sizes(self._zip, path)
        if MANIFEST not in self.sizes:
            raise UserError(f"{path} is no bundle: {MANIFEST} is missing; harness submit run makes bundles")
        self.manifest = _manifest(self._raw(MANIFEST, MAX_MANIFEST), f"{path}: {MANIFEST}")
        self.sha256 = hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()
        named, there = set(self.manifest.parts), set(self.sizes) - {MANIFEST}
        if named != there:
            odd = sorted(there - named) or sorted(named - there)
            where = "is not named in the manifest" if there - named else "is named in the manifest but missing"
            raise UserError(f"{path}: {odd[0][:120]!r} {where}; make the bundle anew with harness submit run")

    def read(self, name: str, limit: int = MAX_SOURCE) -> bytes:
        """Return a part of at most `limit` bytes.

        Raises:
            UserError: it is larger, or its size or digest is not the manifest's.
        """
        part = self.manifest.parts[name]
        if part.size > limit:
            raise UserError(f"{self.path}: {name} has {part.size} bytes, more than the {limit} that it may have")
        data = self._raw(name, part.size)
        if len(data) != part.size or hashlib.sha256(data).hexdigest() != part.sha256:
            raise UserError(f"{self.path}: {name} is not what the manifest says (its digest differs); it was changed or damaged")
        return data

    def source(self) -> Source:
        """Return the submission and its code."""
        where = f"{self.path}: {SOURCE}"
        submission: Submission = parse(decode(self.read(f"{SOURCE}/{FILE}"), f"{where}/{FILE}"), f"{where}/{FILE}")
        if submission.name != self.manifest.submission:
            raise UserError(f"{where}: it is called {submission.name!r}, the manifest says {self.manifest.submission!r}")
        names = [n for n in self.manifest.parts if n.startswith(f"{SOURCE}/") and n.endswith(".py")]
        files = {n.removeprefix(f"{SOURCE}/"): decode(self.read(n), f"{self.path}: {n}") for n in names}
        check_source(submission, files, where)
        return Source(submission, files)

    def _raw(self, name: str, limit: int) -> bytes:
        if self._zip is None:
            return read_plain(self.path / name, limit)
        try:
            with self._zip.open(name) as stream:
                data = stream.read(limit + 1)
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise UserError(f"{self.path}: {name} cannot be unpacked ({str(error)[:120]})") from error
        except Exception as error:  # zlib.error and its like have no common class
            raise UserError(f"{self.path}: {name} cannot be unpacked ({type(error).__name__})") from error
        if len(data) > limit:
            raise UserError(f"{self.path}: {name} unpacks to more than the {limit} bytes that it may have")
        return data


def _manifest(raw: bytes, where: str) -> Manifest:
    """Parse a manifest: plain JSON without duplicate keys, then every field."""
    content = strict_json(raw, where)
    if isinstance(content, dict) and content.get("format") == 1:
        raise UserError(f"{where}: of an older version, whose bundles brought rows; make it anew with harness submit run")
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise UserError(f"{where}: {ascii(describe(error))[1:400]}") from error


def strict_json(data: bytes, where: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        UserError: it is malformed, nests deeply, or says a key twice, of which readers would see one or the other.
    """
    try:
        return json.loads(data, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not plain JSON ({ascii(str(error))[1:120]})") from error


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict; a key that occurs twice is a ValueError."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("a key occurs twice")
        found[key] = value
    return found


def _open_zip(path: Path) -> zipfile.ZipFile:
    refuse_link(path)
    _check_directory(path)
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise UserError(f"{path} is neither a folder nor a zip file ({str(error)[:120]})") from error


def _check_directory(path: Path) -> None:
    """Refuse an archive whose list of members is longer than a bundle's can be, before it is read into memory.

    Raises:
        UserError: so it is, or there is none.
    """
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - END_BYTES))
        tail = stream.read()
    exact = len(tail) - END.size
    plain = exact >= 0 and tail[exact : exact + 4] == SIGNATURE and tail.endswith(b"\0\0")
    start = exact if plain else tail.rfind(SIGNATURE)
    if start < 0 or len(tail) - start < END.size:
        raise UserError(f"{path} is neither a folder nor a zip file (its end is missing)")
    _, disk, first_disk, here, total, size, offset, _ = END.unpack_from(tail, start)
    if LOCATOR in tail[max(0, start - 20) : start] or 0xFFFF in (here, total) or 0xFFFFFFFF in (size, offset):
        raise UserError(f"{path}: a zip64 archive, whose sizes can be told in two ways; bundles are plain zip files")
    if disk or first_disk:
        raise UserError(f"{path}: one of several disks of an archive; a bundle is one file")
    if size > MAX_PARTS * 400:
        raise UserError(f"{path}: its list of members takes {size} bytes, more than {MAX_PARTS} parts need")


def _zip_sizes(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    """Return the members by name, none of which is odd."""
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        name = info.orig_filename
        _check_name(name, path)
        if name in sizes:
            raise UserError(f"{path}: {name!r} occurs twice")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f"{path}: {name!r} is a link, which could lead anywhere")
        if info.extract_version > MAX_ZIP_VERSION:
            raise UserError(f"{path}: {name!r} needs version {info.extract_version / 10:g} of zip; use plain deflate")
        if info.flag_bits & 1:
            raise UserError(f"{path}: {name!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: {name!r} is packed by method {info.compress_type}; use deflate")
        sizes[name] = info.file_size
        if len(sizes) > MAX_PARTS:
            raise UserError(f"{path}: more than {MAX_PARTS} parts")
    return sizes


def _folder_sizes(path: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for root, folders, files in os.walk(path):
        for name in [*folders, *files]:
            refuse_link(Path(root) / name)
        for name in files:
            relative = (Path(root) / name).relative_to(path).as_posix()
            _check_name(relative, path)
            sizes[relative] = (Path(root) / name).lstat().st_size
            if len(sizes) > MAX_PARTS:
                raise UserError(f"{path}: more than {MAX_PARTS} parts")
    return sizes


def _check_name(name: str, path: Path) -> None:
    if name == MANIFEST or re.fullmatch(PART, name):
        return
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
        raise UserError(f"{path}: {ascii(name)[:160]} leads out of the bundle")
    if re.match(r"(rows|leaderboards)/|(clean\.json|chain\.jsonl)$", name):
        raise UserError(f"{path}: {ascii(name)[:160]}: a bundle brings code or images, never rows; those are made here")
    raise UserError(f"{path}: {ascii(name)[:160]} has no place in a bundle of {MANIFEST}, {SOURCE}/ and {IMAGES}/")


def write(path: Path, manifest: Manifest, parts: Mapping[str, bytes]) -> None:
    """Write a bundle: as a zip file when the name ends in .zip, else as a folder; the same bytes for the same content.

    Raises:
        UserError: the folder is there already and holds something.
    """
    content = {MANIFEST: manifest.model_dump_json(indent=1).encode() + b"\n", **parts}
    if path.suffix != ".zip":
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there already; remove it, or choose another with --bundle")
        for name in sorted(content):
            atomic_write(path / name, content[name], "--bundle")
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(content):
            info = zipfile.ZipInfo(name, _STAMP)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            archive.writestr(info, content[name])
    atomic_write(path, buffer.getvalue(), "--bundle")


def part(data: bytes) -> Part:
    """Return what a manifest says of a part."""
    return Part(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def inputs_sha256(suite: str, version: int, levels: int, steps: int, block: int, data_sha256: str) -> str:
    """Return the digest of what an attack is given: it does not need the targets."""
    content = {"suite": suite, "version": version, "levels": levels, "steps": steps, "block": block, "data": data_sha256}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
