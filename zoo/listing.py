"""Rows and details for `zoo list` and `zoo show`; imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

from zoo.entry import ModelEntry
from zoo.registry import Registry


def availability(entry: ModelEntry) -> str:
    """Say in one word where the bytes would come from: bundled, cache, built, hub, url, file, build, unpinned, missing.

    Build is a recipe. Unpinned is what the registry names without a sha256: `zoo lock` fills it in, or `zoo pull --unpinned`
    takes what comes.
    """
    from zoo.pulling import step

    kind = step(entry).kind
    return "unpinned" if kind == "missing" and entry.weights is not None else kind


def rows(
    entries: Iterable[ModelEntry],
    family: str | None = None,
    data: str | None = None,
    arch: str | None = None,
    bits: int | None = None,
    method: str | None = None,
    available: bool = False,
) -> list[dict[str, Any]]:
    """Return one plain row per entry that passes the filters."""
    found = []
    for e in entries:
        where = availability(e)
        keep = (
            family in (None, e.family)
            and data in (None, e.data)
            and (arch is None or fnmatch.fnmatchcase(e.arch, arch) or fnmatch.fnmatchcase(e.arch.split(":")[1], arch))
            and bits in (None, e.a_bits)
            and (method is None or (e.quant is not None and e.quant.method == method))
            and (not available or where not in ("build", "missing", "unpinned"))
        )
        if keep:
            found.append(
                {
                    "name": e.name,
                    "family": e.family,
                    "data": e.data,
                    "arch": e.arch,
                    "bits": f"{e.w_bits}/{e.a_bits}",
                    "method": (e.quant.method if e.quant else None) if not e.alternation else f"{e.quant.method}+qaa",  # type: ignore[union-attr]
                    "weights": where,
                    "top1": e.clean_accuracy.top1 if e.clean_accuracy else None,
                }
            )
    return found


def details(entry: ModelEntry, registry: Registry) -> dict[str, Any]:
    """Return every field of an entry that is set, its route, and what is unknown."""
    facts = {k: v for k, v in entry.model_dump(mode="json").items() if v not in (None, {}, [])}
    facts["registry"] = str(registry.sources[entry.name])
    facts["route"] = availability(entry)
    facts["bytes_from"] = _origins(entry, registry)
    facts["unknown"] = unknown(entry)
    return facts


def _origins(entry: ModelEntry, registry: Registry) -> list[str]:
    """Return where the bytes would come from, first choice first, or what to do when nobody has them."""
    from zoo.hub import routes
    from zoo.pulling import advice, step

    first = step(entry)
    if first.kind in ("build", "missing"):
        return [advice(first, registry)]
    others = routes(entry.weights) if entry.weights else []
    return [f"{r.kind}: {r.where}" for r in others] if first.kind != "built" else [f"built: {first.where}"]


def unknown(entry: ModelEntry) -> list[str]:
    """Return the paths of what the registry does not know of an entry yet."""
    missing = []
    if entry.weights is None:
        missing.append("weights")
    else:
        w = entry.weights
        missing += [f"weights.{k}" for k in ("sha256", "size", "license") if getattr(w, k) is None]
        if w.hub and w.hub.revision is None:
            missing.append("weights.hub.revision")
    if entry.clean_accuracy is None:
        missing.append("clean_accuracy")
    return missing
