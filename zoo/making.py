"""`zoo build`: an entry's weights made by its recipe, after everything that they start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from zoo.build import load_entry, missing_message, weights_path
from zoo.data import load as load_data
from zoo.entry import ModelEntry
from zoo.errors import UserError
from zoo.registry import Registry
from zoo.store import cache_root, place_for

if TYPE_CHECKING:
    from zoo.recipes import BuildReport


def here(entry: ModelEntry) -> bool:
    """Return whether an entry's weights are on this machine or can be fetched."""
    try:
        weights_path(entry)
    except UserError:
        return False
    return True


def make(
    entries: Iterable[ModelEntry],
    registry: Registry,
    *,
    device: str = "cpu",
    out: Path | None = None,
    progress: bool = False,
    announce: Callable[[ModelEntry, int, int], None] | None = None,
) -> list[BuildReport]:
    """Build entries and whatever they need that is not here, each into `out` or the cache; a stopped build resumes.

    Raises:
        UserError: an entry has no recipe, or its data or start cannot be had.
    """
    from zoo import recipes

    asked = list(entries)
    for entry in asked:
        if entry.recipe is None:
            raise UserError(missing_message(entry))
    order = recipes.build_order(asked, registry, here)
    made: dict[str, Path] = {}

    def resolve(name: str) -> nn.Module:
        return load_entry(registry[name], made.get(name))

    reports = []
    for place, entry in enumerate(order, 1):
        if announce is not None:
            announce(entry, place, len(order))
        path = (out / f"{entry.name}.safetensors") if out else place_for(entry.name)
        report = recipes.build(
            entry,
            resolve=resolve,
            data_train=load_data(entry.data, "train"),
            data_test=load_data(entry.data, "test"),
            out=path,
            checkpoint=cache_root() / "checkpoints" / f"{entry.name}.pt",
            progress=progress,
            device=device,
        )
        made[entry.name] = path
        reports.append(report)
    return reports


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
