"""What a suite lacks, said once: models that are not here by what is to be done about them, and reasons that many share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zoo.hub.pulling import whereabouts
from zoo.registry import Registry


def to_do_first(models: Iterable[str], registry: Registry, suite: str) -> list[str]:
    """Return what is to be done about the models that are not here, a line for each kind of deed."""
    models = list(dict.fromkeys(models))
    where = whereabouts((m for m in models if m in registry), registry)
    strangers = [m for m in models if m not in registry]
    lines = [f"not in the registry (name yours with --registry): {', '.join(strangers)}"] if strangers else []
    if where["pull"]:
        sizes = [w.size for name in where["pull"] if (w := registry[name].weights)]
        unknown = f" and {sizes.count(None)} of unknown size" if None in sizes else ""
        total = f"{sum(size or 0 for size in sizes) / 1e6:.0f} MB{unknown}"
        lines.append(f"to download ({total}; zoo pull --suite {suite}): {', '.join(where['pull'])}")
    if where["build"]:
        lines.append(f"to build (zoo build --suite {suite}; what each takes: zoo show NAME): {', '.join(where['build'])}")
    if where["missing"]:
        lines.append(f"not to be had (zoo show NAME says why): {', '.join(where['missing'])}")
    return lines


def summed(blocked: Mapping[str, str], registry: Registry, suite: str) -> list[str]:
    """Return why models and jobs could not take part, each reason once.

    Models that must be built first are named together, and so are those whose reasons differ in their names alone.

    Args:
        blocked: model, or title of a job, to its reason.
        registry: of the run.
        suite: as the run was asked for.
    """
    known = [name for name in blocked if name in registry]
    unbuilt = whereabouts(known, registry)["build"]
    lines = to_do_first(unbuilt, registry, suite) if len(unbuilt) > 1 else []
    alike: dict[str, list[str]] = {}
    for name, reason in blocked.items():
        if not lines or not _of(reason, unbuilt):
            alike.setdefault(reason.replace(name, "NAME"), []).append(name)
    for reason, names in alike.items():
        if len(names) == 1:
            lines.append(blocked[names[0]])
        else:
            lines.append(f"{', '.join(names)}: {reason.removeprefix('NAME: ')}")
    return list(dict.fromkeys(lines))


def _of(reason: str, models: Iterable[str]) -> bool:
    """Whether a reason is that one of the models is not there."""
    return any(reason.startswith(f"{model}: ") for model in models)
