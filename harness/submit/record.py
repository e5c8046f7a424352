"""What a submission says of itself, and its folder as a stranger hands it over: read, never run, never trusted."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import Field, StringConstraints, field_validator, model_validator

from harness.sandbox import printable
from harness.submit.text import MARKS, refuse_odd_text
from zoo.errors import UserError
from zoo.registry.entry import Name, Record
from zoo.registry.yamlfile import read_yaml, validate

FILE = "submission.yaml"
ATTACK = "attack.py"
MAX_YAML = 64 * 1024
MAX_SOURCE = 64 * 1024
"""Bytes of all Python files of a submission together; room for an attack, not for what targets or images give away."""
MAX_FILES = 20
MAX_DEPTH = 10
T = TypeVar("T")
SOURCE_NAME = r"^[a-z_][a-z0-9_]{0,60}\.py$"

PAPER = r"^https?://[a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]{1,5})?(/[A-Za-z0-9._~/%?&=#+:,;-]*)?$"
"""A plain address: no user, no script, no letters that look like others, nothing that ends a link of Markdown or HTML."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Submission(Record):
    """`submission.yaml`: who submits what, and under which terms."""

    name: Name
    """Id of the attack on the board: lower-case letters, digits, dots and hyphens. An id is never reused."""
    title: Text
    """The attack's full name."""
    authors: tuple[Text, ...] = Field(min_length=1, max_length=50)
    """Who made it."""
    paper: Annotated[str, StringConstraints(pattern=PAPER, max_length=300)] | None = None
    """Where it is published."""
    license: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$", max_length=60)]
    """Licence of the code or of the images, as an SPDX id such as MIT or CC-BY-4.0."""
    kind: Literal["code", "images"] = "code"
    """Whether attack.py makes the images, or they were made elsewhere."""
    settings: dict[Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,60}$")], int | float | str | bool] = Field(
        default_factory=dict, max_length=50
    )
    """Keyword arguments of the attack beside those that the suite gives."""
    internals: bool = False
    """Whether the attack works inside the substitute's networks (hooks, modules); its passes cannot be counted then."""
    substitutes: tuple[Name, ...] | None = None
    """Substitutes of the suite to craft on; null is all of them."""

    @field_validator("paper")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is not None and "xn--" in value:
            raise ValueError("holds a host name of other letters (xn--), which can look like another; give a plain one")
        return value

    @field_validator("title", "authors", "settings")
    @classmethod
    def _plain_text(cls, value: T) -> T:
        if isinstance(value, dict):
            texts, marks = [v for v in value.values() if isinstance(v, str)], MARKS + "_="
        else:
            texts, marks = [value] if isinstance(value, str) else list(value), MARKS  # type: ignore[call-overload]
        for text in texts:
            if len(text) > 200:
                raise ValueError("holds a text of more than 200 characters")
            refuse_odd_text(text, marks)
        numbers = value.values() if isinstance(value, dict) else ()
        if any(isinstance(n, int) and abs(n) > 2**53 for n in numbers):
            raise ValueError("holds a number beyond 2**53; a setting is no place to keep data")
        return value

    @model_validator(mode="after")
    def _settings_are_free(self) -> Submission:
        taken = sorted(self.settings.keys() & {"model", "x", "y", "eps", "steps", "rng", "pool"})
        if taken:
            raise ValueError(f"settings name {taken[0]!r}, which the suite decides")
        return self


@dataclass(frozen=True)
class Source:
    """A submission with the text of its code; empty for images."""

    submission: Submission
    files: dict[str, str]

    @property
    def sha256(self) -> str | None:
        """Digest of the code; None when there is none."""
        if not self.files:
            return None
        sha = hashlib.sha256()
        for name in sorted(self.files):
            for part in (name.encode(), self.files[name].encode()):
                sha.update(len(part).to_bytes(8, "big") + part)
        return sha.hexdigest()

    @property
    def composition(self) -> str:
        """What a row says the attack is: the code or its absence, and the settings."""
        settings = "".join(f", {key}={value!r}" for key, value in sorted(self.submission.settings.items()))
        made = f"source='{self.sha256}'" if self.files else "images"
        made += ", internals=True" if self.submission.internals else ""
        return f"Submission('{self.submission.name}', {made}{settings})"


def read_folder(folder: Path) -> Source:
    """Read a submission's folder: submission.yaml and its Python files as text.

    Raises:
        UserError: a file is missing, malformed, too large, a link, or of a kind that has no place here.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; harness submit new NAME makes one")
    names = sorted(os.listdir(folder))  # noqa: PTH208 - names as they are, before any of them becomes a path
    python = [n for n in names if n.endswith(".py")]
    if len(python) > MAX_FILES:
        raise UserError(f"{folder} holds {len(python)} Python files, more than {MAX_FILES}; keep to what the attack needs")
    for name in names:
        refuse_link(folder / name)
        allowed = name in (FILE, "README.md", "LICENSE", "images", "__pycache__") or name in python or name.startswith(".")
        if not allowed:
            listed = f"{FILE}, *.py, README.md, LICENSE and images/"
            raise UserError(f"{folder / name} has no place in a submission, which holds {listed}")
    submission = parse(read_text(folder / FILE, MAX_YAML), str(folder / FILE))
    files = {name: read_text(folder / name, MAX_SOURCE) for name in python}
    check_source(submission, files, str(folder))
    return Source(submission, files if submission.kind == "code" else {})


def check_source(submission: Submission, files: dict[str, str], where: str) -> None:
    """Refuse code that could not be imported, or that is not what the submission says.

    Raises:
        UserError: attack.py is missing, or a name or a text is not one that a module can have.
    """
    if submission.kind == "code" and ATTACK not in files:
        raise UserError(f"{where}: {ATTACK} is missing; a submission of kind `code` defines attack(model, x, y, ...) there")
    if submission.kind == "images" and files:
        raise UserError(f"{where}: kind is `images`, yet there is {sorted(files)[0]}; remove it, or say kind: code")
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_SOURCE:
        raise UserError(f"{where}: its code has {size} bytes, more than the {MAX_SOURCE} that it may have; keep to the attack")
    for name, text in files.items():
        if not re.fullmatch(SOURCE_NAME, name):
            raise UserError(f"{where}: {name!r} is no module name; use lower-case letters, digits and underscores")
        if "\0" in text:
            raise UserError(f"{where}: {name} holds binary data; a submission is made of text")


def parse(text: str, where: str) -> Submission:
    """Return the submission that a YAML text describes.

    Raises:
        UserError: it is malformed, tagged, refers to itself, or does not say what it must.
    """
    try:
        return _parse(text, where)
    except UserError as error:
        raise UserError(printable(str(error))) from error


def _parse(text: str, where: str) -> Submission:
    _refuse_knots(text, where)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / FILE
        path.write_text(text, encoding="utf-8")
        try:
            data = read_yaml(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), where)) from error
    refuse_odd_name(str(data.get("name", "")), where)
    return validate(Submission, data, where)


def _refuse_knots(text: str, where: str) -> None:
    """Refuse YAML that refers to itself or nests deeply, event by event, before anything is built from it."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{where}: holds an alias (*{event.anchor}); write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise UserError(f"{where}: nested too deeply; write it flat")
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())[:200]}; mend the YAML there") from error


def refuse_odd_name(name: str, where: str) -> None:
    """Name the letter that makes a name look like another one, before the pattern refuses it without saying why."""
    for letter in name:
        if ord(letter) > 127:
            called = unicodedata.name(letter, hex(ord(letter)))
            raise UserError(f"{where}.name: holds {called}, which can pass for another letter")
    if name != name.lower():
        raise UserError(f"{where}.name: {name!r} has capital letters; names are lower-case, so that none differs by case alone")


def refuse_link(path: Path) -> None:
    """Refuse what is neither a plain file nor a plain folder.

    Raises:
        UserError: it is a link, a pipe, a device, or a file with several names.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if stat.S_ISLNK(found.st_mode):
        raise UserError(f"{path} is a link, which could lead anywhere; put the file itself there")
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise UserError(f"{path} is neither a file nor a folder")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        raise UserError(f"{path} is one of {found.st_nlink} names of a file (hard links), so others can change it; copy it there")


def read_plain(path: Path, limit: int) -> bytes:
    """Return the bytes of a plain file, following no link.

    Raises:
        UserError: there is none, it is a link, or it is larger than `limit`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as a plain file ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise UserError(f"{path} is not a plain file of one name")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path} is larger than the {limit} bytes that it may have")
    return data


def read_text(path: Path, limit: int) -> str:
    """Return the text of a plain UTF-8 file of at most `limit` bytes."""
    return decode(read_plain(path, limit), str(path))


def decode(data: bytes, where: str) -> str:
    """Return UTF-8 text.

    Raises:
        UserError: the bytes are something else.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text (byte {error.start}); a submission is made of text") from error
