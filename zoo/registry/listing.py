"""Rows and details for `zoo list` and `zoo show`; imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from zoo.registry.entry import ModelEntry
from zoo.registry.registry import Registry


def rows(
    entries: Iterable[ModelEntry],
    availability: Callable[[ModelEntry], str],
    family: str | None = None,
    data: str | None = None,
    arch: str | None = None,
    bits: int | None = None,
    method: str | None = None,
    available: bool = False,
) -> list[dict[str, Any]]:
    """Return one plain row per entry that passes the filters; `availability` says in a word where its bytes would come from."""
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
    """Return every field of an entry that is set, and the registry that defines it."""
    facts = {k: v for k, v in entry.model_dump(mode="json").items() if v not in (None, {}, [])}
    return {**facts, "registry": str(registry.sources[entry.name])}


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
