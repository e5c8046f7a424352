"""What has to be built before what; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from zoo.errors import UserError
from zoo.registry.entry import ModelEntry


def needs(entry: ModelEntry) -> tuple[str, ...]:
    """Return the names of the entries whose weights an entry's recipe reads: its start, and fixed nets of an ensemble."""
    if entry.recipe is None:
        return ()
    found = [entry.recipe.start] if entry.recipe.start else []
    ensemble = entry.recipe.options.get("ensemble")
    return (*found, *(map(str, ensemble) if isinstance(ensemble, tuple) else ()))


def _beside(path: tuple[str, ...], registry: Mapping[str, ModelEntry]) -> str:
    """Say what else a build will need: the images that it trains on."""
    if not path:
        return ""
    data = registry[path[-1]].data if path[-1] in registry else ""
    if data.startswith("imagenet"):
        return f". {path[0]} also needs ImageNet's training images: ZOO_IMAGENET names their folder (docs/setting-up.md)"
    return f". {path[0]} trains on {data}" if data else ""


def build_order(
    wanted: Iterable[ModelEntry], registry: Mapping[str, ModelEntry], available: Callable[[ModelEntry], bool]
) -> list[ModelEntry]:
    """Return what to build, each entry after those that it needs.

    Args:
        wanted: Entries to build, whether or not they exist already.
        registry: All entries by name.
        available: Whether the weights of an entry that was not asked for are on this machine or can be fetched.

    Raises:
        UserError: a needed entry has neither weights nor a recipe, or recipes need each other in a circle.
    """
    asked = {entry.name: entry for entry in wanted}
    ordered: dict[str, ModelEntry] = {}

    def visit(entry: ModelEntry, path: tuple[str, ...]) -> None:
        if entry.name in ordered:
            return
        if entry.name in path:
            raise UserError(
                f"recipes need each other in a circle: {' -> '.join([*path, entry.name])}; mend recipe.start"
            )
        if entry.name not in asked and available(entry):
            return
        if entry.recipe is None:
            by = f", which {path[-1]} starts from," if path else ""
            cure = f"get them with: zoo pull {entry.name}" if entry.weights else f"see zoo show {entry.name}"
            raise UserError(f"{entry.name}{by} has no recipe, and its weights are not here; {cure}{_beside(path, registry)}")
        for name in needs(entry):
            visit(registry[name], (*path, entry.name))
        ordered[entry.name] = entry

    for entry in asked.values():
        visit(entry, ())
    return list(ordered.values())
