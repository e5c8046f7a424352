"""What `zoo pull` does about a model: which route, how big, and what to do when it is not published; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from zoo.hub import Cache, pinned, routes
from zoo.hub.store import built_path
from zoo.hub.weights import RouteKind
from zoo.registry import Registry
from zoo.registry.entry import ModelEntry

READY = ("bundled", "cache", "built", "file")
"""Routes that need no download."""


@dataclass(frozen=True)
class Step:
    """How one model will be made usable. `size` is null when nobody has stated it."""

    entry: ModelEntry
    kind: RouteKind | Literal["built", "build", "missing"]
    where: str
    size: int | None = None


def step(entry: ModelEntry, cache: Cache | None = None, *, unpinned: bool = False) -> Step:
    """Return the best route to a model; nothing is requested and nothing is hashed."""
    built = built_path(entry.name)
    cache = cache or Cache()
    weights = pinned(entry.name, entry.weights, cache) if entry.weights else None
    if weights is not None and (weights.sha256 or (unpinned and built is None)):
        first = routes(weights, cache)
        if first:
            return Step(entry, first[0].kind, first[0].where, first[0].size)
    if built is not None:
        return Step(entry, "built", str(built), built.stat().st_size)
    if entry.recipe is not None:
        return Step(entry, "build", f"zoo build {entry.name}")
    if weights is not None:
        return Step(entry, "missing", "the registry gives no sha256 for its weights", weights.size)
    return Step(entry, "missing", entry.notes or "no weights are published")


def advice(found: Step, registry: Registry) -> str:
    """Say what to do about a model that is not published, and which one could serve meanwhile."""
    entry = found.entry
    if found.kind == "build" and entry.recipe:
        start = f", starting from {entry.recipe.start}" if entry.recipe.start else ""
        cost = f"; {entry.recipe.cost}" if entry.recipe.cost else ""
        text = f"{entry.name}: not published yet; make it with `zoo build {entry.name}` (on {entry.data}{start}{cost})"
    elif entry.weights is not None:
        text = f"{entry.name}: {found.where}; `zoo lock {entry.name}` fills it in, or pass --unpinned to take what comes"
    else:
        text = f"{entry.name}: not published: {found.where}"
    other = stand_in(entry, registry)
    return f"{text}. Meanwhile {other.name} could serve." if other else text


def stand_in(entry: ModelEntry, registry: Registry) -> ModelEntry | None:
    """Return the nearest model that can be had without building: of the same data, best of the same network and bitwidth."""

    relatives = (entry.parent, entry.recipe.start if entry.recipe else None)

    def distance(other: ModelEntry) -> tuple[bool, int, bool]:
        return (other.arch != entry.arch, abs(other.w_bits - entry.w_bits), other.name not in relatives)

    kin = [e for e in registry.values() if e.data == entry.data and _base(e) == _base(entry) and e.name != entry.name]
    if entry.family == "adversarial":  # a standard network would answer another question
        kin = [e for e in kin if e.family == "adversarial"]
    return min((e for e in kin if step(e).kind not in ("build", "missing")), key=distance, default=None)


def _base(entry: ModelEntry) -> str:
    """Return the architecture without the training that timm's names end in."""
    return entry.arch.split(".")[0]


def availability(entry: ModelEntry) -> str:
    """Say in one word where the bytes would come from: bundled, cache, built, hub, url, file, build, unpinned, missing.

    Build is a recipe. Unpinned is what the registry names without a sha256: `zoo lock` fills it in, or `zoo pull --unpinned`
    takes what comes.
    """
    kind = step(entry).kind
    return "unpinned" if kind == "missing" and entry.weights is not None else kind


def origins(entry: ModelEntry, registry: Registry) -> list[str]:
    """Return where the bytes would come from, first choice first, or what to do when nobody has them."""
    first = step(entry)
    if first.kind in ("build", "missing"):
        return [advice(first, registry)]
    others = routes(entry.weights) if entry.weights else []
    return [f"{r.kind}: {r.where}" for r in others] if first.kind != "built" else [f"built: {first.where}"]


def whereabouts(names: Iterable[str], registry: Registry) -> dict[str, list[str]]:
    """Return models by what is to be done before they can be used.

    here: nothing. pull: they are downloaded when they are asked for. build: their recipe makes them. missing: there is neither.
    """
    found: dict[str, list[str]] = {"here": [], "pull": [], "build": [], "missing": []}
    for name in dict.fromkeys(names):
        kind = step(registry[name]).kind
        found["here" if kind in READY else kind if kind in found else "pull"].append(name)
    return found
