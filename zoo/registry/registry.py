"""registry.yaml, and overlays of the user's own, as validated entries by name."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.errors import UserError, did_you_mean
from zoo.registry.entry import ModelEntry
from zoo.registry.owncode import placed
from zoo.registry.yamlfile import read_yaml, validate

ENVIRONMENT = "ZOO_REGISTRY"
"""Environment variable with overlay files, separated as in PATH."""
_ARCHITECTURE = ("arch", "arch_file", "arch_args", "classes", "label_offset", "input", "quant", "feature_layer")
INHERITED = ("family", "data", *_ARCHITECTURE, "cite")


class Registry(Mapping[str, ModelEntry]):
    """Entries by name; aliases resolve; later files shadow earlier ones."""

    def __init__(self, entries: Mapping[str, ModelEntry], sources: Mapping[str, Path], shadowed: tuple[str, ...] = ()) -> None:
        self._entries = dict(entries)
        self.sources = dict(sources)
        self.shadowed = shadowed
        self.aliases: dict[str, str] = {}
        for entry in self._entries.values():
            for alias in entry.aliases:
                if alias in self._entries or alias in self.aliases:
                    raise UserError(f"{sources[entry.name]}: models.{entry.name}.aliases: {alias!r} already names another model")
                self.aliases[alias] = entry.name

    def __getitem__(self, name: str) -> ModelEntry:
        found = self._entries.get(self.aliases.get(name, name))
        if found is None:
            near = did_you_mean(name, [*self._entries, *self.aliases])
            pattern = re.split(r"[-.]", name)[0] or name
            raise UserError(f"unknown model {name!r}{near} (zoo list '{pattern}*')")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries, key=natural))

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, patterns: Iterable[str]) -> list[ModelEntry]:
        """Return the entries that any pattern (shell wildcards) names, in natural order, each once.

        Raises:
            UserError: a pattern names nothing.
        """
        names: set[str] = set()
        for pattern in patterns:
            wild = any(c in pattern for c in "*?[")
            hits = [n for n in self if fnmatch.fnmatchcase(n, pattern)] if wild else [self[pattern].name]
            if not hits:
                raise UserError(f"no model is named like {pattern!r}{did_you_mean(pattern.strip('*'), self)} (zoo list)")
            names.update(hits)
        return [self[n] for n in sorted(names, key=natural)]


def natural(name: str) -> tuple[object, ...]:
    """Sort key that puts resnet8 before resnet14."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)


def main_file() -> Path:
    """Path of the registry that ships with the package (installed) or stands at the root of the repository (checkout)."""
    here = Path(__file__).parent.parent
    packaged = here / "registry.yaml"
    return packaged if packaged.is_file() else here.parent / "registry.yaml"


def load(overlays: Iterable[str | Path] = ()) -> Registry:
    """Return the registry with the overlays of $ZOO_REGISTRY and then `overlays` on top, the last one winning."""
    extra = [p for p in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if p]
    paths = [Path(p) for p in [main_file(), *extra, *overlays]]
    return _load(tuple(paths), tuple(_stamp(p) for p in paths))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does, so that a registry is read again after an edit."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _load(paths: tuple[Path, ...], stamps: tuple[tuple[int, int] | None, ...]) -> Registry:
    raw: dict[str, dict[str, Any]] = {}
    sources: dict[str, Path] = {}
    shadowed: list[str] = []
    for path in paths:
        for name, fields in _models(path).items():
            if name in raw:
                shadowed.append(name)
            raw[name] = placed(fields, f"{path}: models.{name}", path, bundled=path == main_file())
            sources[name] = path
    entries = {n: _placed(validate(ModelEntry, _merged(n, raw, sources), f"{sources[n]}: models.{n}"), sources[n]) for n in raw}
    for entry in entries.values():
        _check_references(entry, entries, sources[entry.name])
    return Registry(entries, sources, tuple(shadowed))


def _models(path: Path) -> dict[str, dict[str, Any]]:
    data = read_yaml(path)
    unknown = set(data) - {"version", "models", "defaults"}
    if unknown:
        raise UserError(f"{path}: unknown key {sorted(unknown)[0]!r}; a registry has version, models and (for anchors) defaults")
    if data.get("version") != 1:
        raise UserError(f"{path}: version: expected 1, found {data.get('version')!r}")
    models = data.get("models")
    if not isinstance(models, dict):
        raise UserError(f"{path}: models: expected a mapping from model names to their fields")
    for name, fields in models.items():
        if not isinstance(fields, dict):
            raise UserError(f"{path}: models.{name}: expected a mapping of fields, found {type(fields).__name__}")
        if "name" in fields:
            raise UserError(f"{path}: models.{name}.name: a model is named by its key; remove the field")
    return models


def _merged(name: str, raw: Mapping[str, dict[str, Any]], sources: Mapping[str, Path]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    seen: list[str] = []
    cursor: str | None = name
    while cursor is not None:
        if cursor in seen:
            raise UserError(f"{sources[name]}: models.{name}.parent: parents run in a circle ({' -> '.join([*seen, cursor])})")
        if cursor not in raw:
            where = f"{sources[seen[-1]]}: models.{seen[-1]}.parent"
            raise UserError(f"{where}: no model is named {cursor!r}{did_you_mean(cursor, raw)}")
        for key, value in raw[cursor].items():
            if key not in fields and (cursor == name or key in INHERITED):
                fields[key] = value
        seen.append(cursor)
        parent = raw[cursor].get("parent")
        cursor = parent if isinstance(parent, str) else None
    if not str(fields.get("arch")).startswith("own:"):
        fields.pop("arch_file", None)  # a parent's, which is made of other code
    return {"name": name, **fields}


def _placed(entry: ModelEntry, source: Path) -> ModelEntry:
    """Let a relative weights file start from the folder of the registry that names it."""
    w = entry.weights
    if w is None or w.file is None or Path(w.file).is_absolute():
        return entry
    return entry.model_copy(update={"weights": w.model_copy(update={"file": str(source.parent / w.file)})})


def _check_references(entry: ModelEntry, entries: Mapping[str, ModelEntry], path: Path) -> None:
    start = entry.recipe.start if entry.recipe else None
    if start is not None and start not in entries:
        raise UserError(f"{path}: models.{entry.name}.recipe.start: no model is named {start!r}{did_you_mean(start, entries)}")
    seen = [entry.name]
    while start is not None:
        if start in seen:
            raise UserError(f"{path}: models.{entry.name}.recipe.start: recipes run in a circle ({' -> '.join([*seen, start])})")
        seen.append(start)
        recipe = entries[start].recipe if start in entries else None
        start = recipe.start if recipe else None
