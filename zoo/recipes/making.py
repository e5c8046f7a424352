"""`zoo build`: an entry's weights made by its recipe, after everything that they start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from zoo.data import load as load_data
from zoo.data import training
from zoo.devices import check_device
from zoo.errors import UserError
from zoo.hub.store import ENVIRONMENT, building, cache_root, checkpoint_for, place_for, ready, verified
from zoo.loading.load import load_entry, missing_message, weights_path
from zoo.registry import Registry
from zoo.registry.entry import ModelEntry

if TYPE_CHECKING:
    from zoo.recipes import BuildReport


def find(entry: ModelEntry, out: Path | None = None) -> Path | None:
    """Return a checked file with an entry's weights, or None: what the registry pins, what `out` holds, what the cache holds."""
    pinned = entry.weights is not None and entry.weights.sha256 is not None
    attempts: list[Callable[[], Path]] = [lambda: weights_path(entry)]
    if out is not None and (local := out / f"{entry.name}{suffix(entry)}").is_file():
        attempts.insert(1 if pinned else 0, lambda: verified(local))
    for attempt in attempts:
        with suppress(UserError):
            return attempt()
    return None


def suffix(entry: ModelEntry) -> str:
    """Return how the name of the file that an entry's recipe makes ends."""
    return ".onnx" if entry.recipe is not None and entry.recipe.kind == "export" else ".safetensors"


def unmade(entries: Iterable[ModelEntry], out: Path | None = None) -> list[ModelEntry]:
    """Return the entries that have a recipe and no file on this machine, in order."""
    return [entry for entry in entries if entry.recipe is not None and find(entry, out) is None]


def make(
    entries: Iterable[ModelEntry],
    registry: Registry,
    *,
    device: str = "cpu",
    out: Path | None = None,
    again: bool = False,
    progress: bool = False,
    data: str | None = None,
    announce: Callable[[ModelEntry, int, Sequence[ModelEntry]], None] | None = None,
) -> list[BuildReport]:
    """Build entries and whatever they need that is not here, each into `out` or the cache; a stopped build resumes.

    Images come from `data`, such as parquet:PATH, where it is given, and otherwise from the data set that each entry names.
    What an earlier build finished is kept, when the recipe, the images and the start are the same; with `again`, the entries
    that were asked for are made anew. Where another process builds an entry, its end is waited for.

    Raises:
        UserError: an entry has no recipe, its data or start cannot be had, or the device or a folder cannot be used.
    """
    from zoo import recipes

    asked = list(entries)
    for entry in asked:
        if entry.recipe is None:
            raise UserError(missing_message(entry))
    check_device(device)
    if out is not None:
        ready(out, "name another one with --out")
    ready(cache_root() / "built", f"set {ENVIRONMENT} to another one")
    for entry in asked:
        _check_data(entry, registry, data)
    order = recipes.build_order(asked, registry, lambda entry: find(entry, out) is not None)
    made: dict[str, Path] = {}

    def local(name: str) -> Path | None:
        """Return the file to load of an entry, where it is not the registry's."""
        path = made.get(name) or find(registry[name], out)
        return path if name in made or (path is not None and out is not None and path.parent == out) else None

    def resolve(name: str) -> nn.Module:
        return load_entry(registry[name], local(name))

    reports = []
    for place, entry in enumerate(order, 1):
        if announce is not None:
            announce(entry, place, order)
        path = (out / f"{entry.name}{suffix(entry)}") if out else place_for(entry.name, suffix(entry))
        keep = not (again and entry in asked)
        with building(entry.name):
            if entry.recipe is not None and entry.recipe.kind == "export":
                start = registry[recipes.start_of(entry)]
                reports.append(recipes.export(entry, start, path, local(start.name), keep=keep))
            else:
                report = recipes.build(
                    entry,
                    resolve=resolve,
                    data_train=training(data or entry.data),
                    data_test=load_data(data or entry.data, "test"),
                    out=path,
                    checkpoint=checkpoint_for(entry.name),
                    progress=progress,
                    device=device,
                    keep=keep,
                )
                reports.append(report)
        made[entry.name] = path
    return reports


def _check_data(entry: ModelEntry, registry: Registry, data: str | None) -> None:
    """Refuse a build whose images are not there before anything is downloaded or trained for it, and name all that it needs."""
    from zoo.hub.pulling import READY, step

    if entry.recipe is None or entry.recipe.kind == "export":
        return
    try:
        training(data or entry.data)
    except UserError as error:
        start = entry.recipe.start
        while start is not None and step(registry[start]).kind == "build":
            below = registry[start].recipe
            start = below.start if below else None
        afar = start is not None and step(registry[start]).kind not in READY
        also = f". What it starts from is not here either: zoo pull {start}" if afar else ""
        raise UserError(f"{entry.name} trains on {data or entry.data}: {error}{also}") from None


def against_registry(entry: ModelEntry, report: BuildReport) -> str:
    """Say how a file that was just made compares with what the registry pins, which is what commands go on using."""
    pinned = entry.weights.sha256 if entry.weights else None
    if pinned is None:
        return "the registry pins no file for it"
    if pinned == report.sha256:
        return "identical to the registry's file, to the byte"
    return (
        "another file than the registry's (other versions or another machine round differently), which keeps precedence: "
        f"to use this one, give the entry weights: {{file: {report.path}, sha256: {report.sha256}}} in a registry of your own"
    )
