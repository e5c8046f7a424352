"""What a run was asked for, kept beside its rows until it has ended, so that `harness resume` can go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from harness.files import atomic_write, read_record, remove
from harness.selection import Selection
from zoo.entry import Record
from zoo.errors import UserError


class Request(Record):
    """The arguments of a run."""

    suite: str
    """Name of a suite that ships with the package, or the path of its file; "" is the record in the folder of the run."""
    attacks: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    limit: int | None = None
    device: str = "cpu"
    overlays: tuple[str, ...] = ()
    workers: int | None = None
    batch_size: int | None = None
    executor: Literal["local", "ray"] = "local"
    address: str | None = None
    """Address of a Ray cluster."""
    gpus: float | None = None
    """GPUs, or a fraction of one, that each task takes on Ray."""

    @property
    def selection(self) -> Selection:
        """The part of the suite that was asked for."""
        return Selection(self.attacks, self.substitutes, self.targets, self.seeds)


@contextmanager
def remembered(folder: Path, request: Request) -> Iterator[None]:
    """Keep the request in the folder while a run is at work, and after it when it did not come to its end."""
    path = folder / "run.json"
    if not request.suite:
        request = request.model_copy(update={"suite": str(folder / "suite.yaml")})
    atomic_write(path, request.model_dump_json(indent=1) + "\n")
    yield
    remove(path)


def unfinished(folder: Path) -> Request | None:
    """Return the request of a run that did not come to its end in this folder, or None."""
    path = folder / "run.json"
    return read_record(path, Request, "delete it and run the suite again") if path.is_file() else None


def only_unfinished(out: Path, suite: str = "*") -> Path:
    """Return the one folder of a suite (of any, by default) below `out` with an unfinished run.

    Raises:
        UserError: there is none, or more than one.
    """
    found = sorted(p.parent for p in out.glob(f"{suite}/*/run.json"))
    if not found:
        raise UserError(f"no unfinished run in {out / suite}; start one with harness run --suite NAME")
    if len(found) > 1:
        raise UserError(f"several unfinished runs ({', '.join(map(str, found))}); name one with --suite, or run it again")
    return found[0]
