"""What a run was asked for, kept beside its rows until it has ended, so that `harness resume` can go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.storage.files import atomic_write, read_record, remove
from harness.suites.selection import Selection
from harness.suites.suite import Suite, name_of
from zoo.errors import UserError
from zoo.registry.entry import Record


class Request(Record):
    """The arguments of a run."""

    suite: str
    """Name of a suite that ships with the package, or the path of its file; "" is the record in the folder of the run."""
    attacks: tuple[str | dict[str, Any], ...] = ()
    """Names, or mappings of parts."""
    substitutes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    limit: int | None = None
    full: bool = False
    """All images of the data set, where the suite takes only the first of them."""
    device: str = "cpu"
    overlays: tuple[str, ...] = ()
    workers: int | None = None
    queue: int | None = None
    executor: Literal["local", "ray"] = "local"
    address: str | None = None
    """Address of a Ray cluster."""
    precision: Literal["exact", "tf32", "bf16"] = "exact"
    compiled: bool = False
    gpus: float | None = None
    """GPUs, or a fraction of one, that each task takes on Ray."""
    fail_fast: bool = False
    """End with the first cell that fails, instead of recording it and going on."""

    @property
    def selection(self) -> Selection:
        """The part of the suite that was asked for."""
        return Selection(self.attacks, self.substitutes, self.targets, self.seeds)


class Pending(Record):
    """The runs of a folder that did not come to their end."""

    requests: tuple[Request, ...] = Field(min_length=1)
    """What they were asked for, the latest last."""


@contextmanager
def remembered(folder: Path, request: Request, suite: Suite) -> Iterator[None]:
    """Keep the request in the folder while a run of the suite is at work, and after it when it did not come to its end.

    Requests of earlier runs stay there until one that asks for all that they did comes to its end.
    """
    if not request.suite:
        request = request.model_copy(update={"suite": str(folder / "suite.yaml")})
    others = tuple(earlier for earlier in _read(folder) if not _covers(request, earlier, suite))
    _write(folder, (*others, request))
    yield
    _write(folder, others)


def _covers(request: Request, earlier: Request, suite: Suite) -> bool:
    """Whether all that an earlier request asked for is asked for again; how it is computed does not matter."""
    if (request.suite, request.overlays) != (earlier.suite, earlier.overlays):
        return False
    try:
        now, then = (set(r.selection.bring(suite)[0].jobs(suite)) for r in (request, earlier))
    except UserError:  # the suite has changed since, or the attacks of both share an id
        return False
    return then <= now and (not request.targets or (bool(earlier.targets) and set(earlier.targets) <= set(request.targets)))


def _read(folder: Path) -> tuple[Request, ...]:
    path = folder / "run.json"
    return read_record(path, Pending, "delete it and run the suite again").requests if path.is_file() else ()


def _write(folder: Path, requests: tuple[Request, ...]) -> None:
    path = folder / "run.json"
    if requests:
        atomic_write(path, Pending(requests=requests).model_dump_json(indent=1) + "\n")
    else:
        remove(path)


def unfinished(folder: Path) -> Request | None:
    """Return the request of the latest run that did not come to its end in this folder, or None."""
    return next(reversed(_read(folder)), None)


def only_unfinished(out: Path, suite: str | None = None) -> Path:
    """Return the one folder of a suite (its name or its file; any, by default) below `out` with an unfinished run.

    Raises:
        UserError: there is none, or more than one.
    """
    name = None if suite is None else name_of(suite)
    found = sorted(p.parent for p in out.glob("*/*/run.json") if name in (None, p.parent.parent.name))
    if not found:
        raise UserError(f"no unfinished run in {out / (name or '*')}; start one with harness run --suite NAME")
    if len(found) > 1:
        raise UserError(f"several unfinished runs ({', '.join(map(str, found))}); name one with --suite, or run it again")
    return found[0]
