"""What `zoo pull` does about a model: which route, how big, and what to do when it is not published; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.entry import ModelEntry
from zoo.errors import UserError
from zoo.hub import Cache, pinned, routes
from zoo.registry import Registry
from zoo.store import built_path
from zoo.yamlfile import read_yaml

READY = ("bundled", "cache", "built", "file")
"""Routes that need no download."""
RouteKind = Literal["bundled", "cache", "built", "hub", "url", "file", "build", "missing"]


@dataclass(frozen=True)
class Step:
    """How one model will be made usable. `size` is null when nobody has stated it."""

    entry: ModelEntry
    kind: RouteKind
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


def suite_models(suite: str) -> list[str]:
    """Return the names of a suite's models: its substitutes and its targets. `suite` is a shipped one's name or a file.

    Raises:
        UserError: there is no such suite.
    """
    shipped = Path(__file__).parent.parent / "harness" / "suites"
    path = Path(suite) if suite.endswith((".yaml", ".yml")) else shipped / f"{suite}.yaml"
    if not path.is_file():
        raise UserError(f"unknown suite {suite!r} ({path}); see harness list, or give the path of a .yaml file")
    content = _included(path, shipped)
    names: dict[str, None] = {}
    for item in _listed(content.get("substitutes"), f"{path}: substitutes"):
        models = item.get("models") if isinstance(item, dict) else [item]
        names |= dict.fromkeys(_listed(models, f"{path}: substitutes.models", of=str))
    groups = content.get("targets")
    for group in groups.values() if isinstance(groups, dict) else [groups]:
        names |= dict.fromkeys(_listed(group, f"{path}: targets", of=str))
    return list(names)


def _listed(value: Any, where: str, of: type = object) -> list[Any]:
    """Return a list as it is, and nothing as an empty one; refuse anything else."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, of) for item in value):
        raise UserError(f"{where}: expected a list{' of names of models' if of is str else ''}, found {str(value)[:80]!r}")
    return value


def _included(path: Path, shipped: Path, depth: int = 0) -> dict[str, Any]:
    content = read_yaml(path)
    parent = content.pop("include", None)
    if not isinstance(parent, str) or depth > 8:
        return content
    folder = path.parent if (path.parent / parent).is_file() else shipped
    return {**_included(folder / parent, shipped, depth + 1), **content}


def plain(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Return steps as rows for a table or JSON."""
    return [{"name": s.entry.name, "route": s.kind, "where": s.where, "size": s.size} for s in steps]
