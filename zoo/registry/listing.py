"""Rows and details for `zoo list` and `zoo show`; imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zoo.errors import UserError, did_you_mean
from zoo.registry.entry import ModelEntry
from zoo.registry.registry import Registry, natural


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
    """Return one plain row per entry that passes the filters; `availability` says in a word where its bytes would come from.

    Raises:
        UserError: none passes.
    """
    entries, found = list(entries), []
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
                    "size": e.weights.size if e.weights else None,
                    "top1": e.clean_accuracy.top1 if e.clean_accuracy else None,
                }
            )
    if not found:
        raise UserError(_none(entries, {"family": family, "data": data, "arch": arch, "bits": bits, "method": method}, available))
    return found


def _none(entries: Iterable[ModelEntry], filters: Mapping[str, object], available: bool) -> str:
    """Say which filters let nothing pass, and what comes near to one that no entry has."""
    values: dict[str, set[str]] = {
        "family": {e.family for e in entries},
        "data": {e.data for e in entries},
        "arch": {e.arch for e in entries} | {e.arch.split(":")[1] for e in entries},
        "bits": {str(e.a_bits) for e in entries},
        "method": {str(e.quant.method) for e in entries if e.quant},
    }
    given = {key: str(value) for key, value in filters.items() if value is not None}
    said = " ".join([*(f"--{key} {value}" for key, value in given.items()), *["--available"] * available])
    for key, value in given.items():
        if not any(fnmatch.fnmatchcase(known, value) for known in values[key]):
            listed = f"; there are {', '.join(sorted(values[key], key=natural))}" if key != "arch" else ""
            return f"no model matches {said}: none has {key} {value}{did_you_mean(value, values[key])}{listed}"
    return f"no model matches {said}, though each of these alone has some" if said else "no model is there"


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
