"""The commands that fetch and check files: `zoo pull | verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.commands.terminal import chosen, emit, human, json_option, model_names, open_registry
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.hub.pulling import Step
    from zoo.registry import Registry


@click.command()
@click.argument("names", nargs=-1, shell_complete=model_names)
@click.option("--suite", "suites", multiple=True, help="Every model of a suite, such as imagenet-qnn; repeatable.")
@click.option("--build", is_flag=True, help="Make by their recipes what is not published, which may take hours.")
@click.option("--unpinned", is_flag=True, help="Accept weights for which the registry gives no sha256.")
@click.option("--offline", is_flag=True, help="Make no request; say what is not on this machine.")
@click.option("--jobs", type=click.IntRange(1, 32), default=4, show_default=True, help="Downloads at a time.")
@click.option("--device", default="cpu", show_default=True, help="Where to train with --build.")
@json_option
@click.pass_obj
def pull(
    overlays: tuple[Path, ...],
    /,
    names: tuple[str, ...],
    suites: tuple[str, ...],
    build: bool,
    unpinned: bool,
    offline: bool,
    jobs: int,
    device: str,
    as_json: bool,
) -> None:
    """Make NAMES (wildcards allowed) usable by the best route that exists, each file checked against the registry.

    Routes are, in order: bundled, on this machine, Hub, url, and with --build a recipe. Exits with 2 when a model could
    not be had; the others are kept.

    \b
    Examples:
      zoo pull resnet34 'inception*'
      zoo pull --suite imagenet-standard
      zoo pull digits-resnet14-2bit --build
    """
    from zoo.hub import DownloadOptions, pull_many
    from zoo.hub.pulling import advice, step
    from zoo.hub.store import verified_path

    if not names and not suites:
        raise UserError("name the models to pull, such as zoo pull resnet34, or a suite with --suite")
    registry = open_registry(overlays)
    steps = [step(entry, unpinned=unpinned) for entry in chosen(registry, names, suites)]
    _announce(steps)
    fetched = {s.entry.name: s.entry.weights for s in steps if s.entry.weights and s.kind not in ("build", "missing", "built")}
    options = DownloadOptions(offline=offline, progress=sys.stderr.isatty())
    results = {p.name: p for p in pull_many(fetched, options, unpinned=unpinned, jobs=jobs)}
    unpublished = [s for s in steps if s.kind == "build"]
    made = _build(unpublished, registry, device, asked=build)
    rows = []
    for s in steps:
        name = s.entry.name
        pulled = results.get(name)
        path = str(pulled.path) if pulled and pulled.path else made.get(name)
        error = pulled.error if pulled else None
        if s.kind == "built":
            try:
                path = str(verified_path(name))
            except UserError as altered:
                error = str(altered)
        rows.append({"name": name, "route": s.kind, "path": path, "error": None if path else error or advice(s, registry)})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    for row in rows:
        if row["error"]:
            click.echo(f"Error: {row['error']}", err=True)
        elif not as_json:
            click.echo(f"{row['name']}: {row['path']}")
    if any(row["error"] for row in rows):
        raise click.exceptions.Exit(2)


def _announce(steps: list[Step]) -> None:
    from zoo.hub.pulling import READY

    ahead = [s for s in steps if s.kind in ("hub", "url")]
    for s in ahead:
        click.echo(f"{s.entry.name}: {s.kind}, {human(s.size)}, {s.where}", err=True)
    known = sum(s.size or 0 for s in ahead)
    unknown = sum(s.size is None for s in ahead)
    ready = sum(s.kind in READY for s in steps)
    parts = [f"{ready} ready", f"{len(ahead)} to download"]
    if ahead:
        parts[-1] += f" ({human(known)}{f' and {unknown} of unknown size' if unknown else ''})"
    click.echo("; ".join([*parts, f"{len(steps) - ready - len(ahead)} not to be had"]), err=True)


def _build(steps: list[Step], registry: Registry, device: str, *, asked: bool) -> dict[str, str]:
    """Build what is not published, when asked for or agreed to on a terminal."""
    if not steps:
        return {}
    if not asked and sys.stdin.isatty() and sys.stderr.isatty():
        for s in steps:
            cost = s.entry.recipe.cost if s.entry.recipe else None
            click.echo(f"{s.entry.name}: not published; building it takes: {cost or 'cost not stated'}", err=True)
        asked = click.confirm(f"Build {len(steps)} now?", default=False, err=True)
    if not asked:
        return {}
    from zoo.recipes.making import make

    reports = make([s.entry for s in steps], registry, device=device, progress=sys.stderr.isatty())
    return {report.name: str(report.path) for report in reports}


@click.command()
@click.argument("names", nargs=-1, shell_complete=model_names)
@json_option
@click.pass_obj
def verify(overlays: tuple[Path, ...], /, names: tuple[str, ...], as_json: bool) -> None:
    """Hash again every file on this machine, or those of NAMES, and report what is altered, missing or unlisted.

    Files that were built here are compared with the logs of their builds. Nothing is removed: zoo pull replaces an altered
    file of the cache, zoo build one that was built. Exits with 1 when a file is altered.

    \b
    Examples:
      zoo verify
      zoo verify 'resnet34*' --json
    """
    from zoo.hub import verify_all
    from zoo.hub.store import check_built

    registry = open_registry(overlays)
    wanted = chosen(registry, names)
    models = {e.name: e.weights for e in wanted if e.weights}
    verdicts = verify_all(models, unlisted=not names) + check_built([e.name for e in wanted] if names else None)
    missing = [v for v in verdicts if v.status == "missing"]
    shown = verdicts if as_json or names else [v for v in verdicts if v.status != "missing"]
    emit([vars(v) for v in shown], as_json, {"status": "status", "name": "name", "path": "file", "detail": "detail"})
    counts = {s: sum(v.status == s for v in verdicts) for s in ("ok", "altered", "unlisted")}
    click.echo(f"{', '.join(f'{n} {s}' for s, n in counts.items())}, {len(missing)} not on this machine", err=True)
    if counts["altered"]:
        raise click.exceptions.Exit(1)


COMMANDS = (pull, verify)
