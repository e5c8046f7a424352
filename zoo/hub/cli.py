"""The commands that fetch, check, publish and pin: `zoo pull | verify | push | lock | validate | cache`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import emit, human, json_option, open_registry
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.hub import Locked
    from zoo.pulling import Step
    from zoo.registry import Registry


def _chosen(registry: Registry, names: tuple[str, ...], suites: tuple[str, ...] = ()) -> list[Any]:
    from zoo.pulling import suite_models

    wanted = [*names, *(n for s in suites for n in suite_models(s))]
    return registry.match(wanted) if wanted else list(registry.values())


@click.command()
@click.argument("names", nargs=-1)
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
    from zoo.hub import Options, pull_many
    from zoo.pulling import advice, step
    from zoo.store import verified_path

    if not names and not suites:
        raise UserError("name the models to pull, such as zoo pull resnet34, or a suite with --suite")
    registry = open_registry(overlays)
    steps = [step(entry, unpinned=unpinned) for entry in _chosen(registry, names, suites)]
    _announce(steps)
    fetched = {s.entry.name: s.entry.weights for s in steps if s.entry.weights and s.kind not in ("build", "missing", "built")}
    options = Options(offline=offline, progress=sys.stderr.isatty())
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
    from zoo.pulling import READY

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
    from zoo.making import make

    reports = make([s.entry for s in steps], registry, device=device, progress=sys.stderr.isatty())
    return {report.name: str(report.path) for report in reports}


@click.command()
@click.argument("names", nargs=-1)
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
    from zoo.store import check_built

    registry = open_registry(overlays)
    chosen = _chosen(registry, names)
    models = {e.name: e.weights for e in chosen if e.weights}
    verdicts = verify_all(models, unlisted=not names) + check_built([e.name for e in chosen] if names else None)
    missing = [v for v in verdicts if v.status == "missing"]
    shown = verdicts if as_json or names else [v for v in verdicts if v.status != "missing"]
    emit([vars(v) for v in shown], as_json, {"status": "status", "name": "name", "path": "file", "detail": "detail"})
    counts = {s: sum(v.status == s for v in verdicts) for s in ("ok", "altered", "unlisted")}
    click.echo(f"{', '.join(f'{n} {s}' for s, n in counts.items())}, {len(missing)} not on this machine", err=True)
    if counts["altered"]:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("name")
@click.option("--repo", required=True, help="Hub repository to create or update, as ORG/NAME.")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="A safetensors file instead of the one in use.")
@click.option("--license", help="Licence of the weights, such as apache-2.0; otherwise the registry's.")
@click.option("--private", is_flag=True, help="Create the repository as a private one.")
@click.option("--pin/--no-pin", default=True, show_default=True, help="Write the pin into the registry that defines NAME.")
@json_option
@click.pass_obj
def push(
    overlays: tuple[Path, ...],
    /,
    name: str,
    repo: str,
    file: Path | None,
    license: str | None,
    private: bool,
    pin: bool,
    as_json: bool,
) -> None:
    """Publish NAME on the Hub as safetensors with a model card, then pin it in the registry.

    The file is loaded and run first; one that does not fit NAME's network is refused.
    Needs a token that may write (hf auth login, or HF_TOKEN).

    \b
    Example:
      zoo push resnet34-2bit --repo my-org/resnet34-2bit --license apache-2.0
    """
    from zoo.build import weights_path
    from zoo.hub import pins_of, write_pins
    from zoo.hub import push as publish

    registry = open_registry(overlays)
    entry = registry[name]
    weights = publish(entry, file or weights_path(entry), repo, license=license, private=private)
    if pin:
        write_pins(registry.sources[entry.name], {entry.name: pins_of(weights, entry.weights)})
        click.echo(f"pinned in {registry.sources[entry.name]}", err=True)
    assert weights.hub is not None
    if as_json:
        click.echo(json.dumps({"name": entry.name, **weights.model_dump(exclude_none=True)}, indent=2))
    else:
        click.echo(f"{entry.name}: {repo} at {weights.hub.revision}, sha256 {weights.sha256}, {human(weights.size)}")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 when anything is missing or has moved.")
@json_option
@click.pass_obj
def lock(overlays: tuple[Path, ...], /, names: tuple[str, ...], check: bool, as_json: bool) -> None:
    """Fill in, from the Hub, the revisions, sha256 and sizes that NAMES (default: all) lack, and show what has moved.

    A pin that is there is never changed. A file that the Hub gives no hash for is downloaded to be hashed.

    \b
    Examples:
      zoo lock inception-v3
      zoo lock --check --json
    """
    from zoo.hub import Options
    from zoo.hub import lock as ask

    registry = open_registry(overlays)
    found = ask(_chosen(registry, names), Options(progress=sys.stderr.isatty()))
    if not check:
        _write(found, registry)
    if as_json:
        click.echo(json.dumps([vars(x) for x in found], indent=2))
    else:
        told = [
            {"name": x.name, "filled": [f"{k}: {v}" for k, v in x.filled.items()], "moved": x.moved, "error": x.error}
            for x in found
            if x.filled or x.moved or x.error
        ]
        emit(told, False, {"name": "name", "filled": "to fill in" if check else "filled in", "moved": "moved", "error": "error"})
    click.echo(f"{len(found)} asked, {sum(bool(x.filled) for x in found)} with something to fill in", err=True)
    if any(x.error for x in found) or (check and any(x.filled or x.moved for x in found)):
        raise click.exceptions.Exit(1)


def _write(found: list[Locked], registry: Registry) -> None:
    from zoo.hub import write_pins

    for path in sorted({registry.sources[x.name] for x in found if x.filled}):
        write_pins(path, {x.name: x.filled for x in found if x.filled and registry.sources[x.name] == path})
        click.echo(f"pinned in {path}", err=True)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--strict", is_flag=True, help="Exit with 1 when anything is unknown.")
@json_option
@click.pass_obj
def validate(overlays: tuple[Path, ...], /, names: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Read the registry strictly and list what is not known of NAMES (default: all) yet.

    A mistake in a registry ends in one sentence that says where it is, with exit status 2.

    \b
    Examples:
      zoo validate
      zoo --registry mine.yaml validate --strict
    """
    from zoo.listing import unknown

    registry = open_registry(overlays)
    entries = _chosen(registry, names)
    rows = [{"name": e.name, "unknown": unknown(e)} for e in entries]
    rows = [row for row in rows if row["unknown"]]
    emit(rows, as_json, {"name": "name", "unknown": "not known yet"})
    click.echo(f"{len(entries)} entries read, {len(rows)} with something unknown", err=True)
    if strict and rows:
        raise click.exceptions.Exit(1)


@click.group()
def cache() -> None:
    """Show or empty the folder of downloaded and built files ($ZOO_CACHE, otherwise zoo in the user's cache folder)."""


@cache.command("list")
@json_option
@click.pass_obj
def cache_list(overlays: tuple[Path, ...], /, as_json: bool) -> None:
    """List the files in the cache with the models that they serve, those that were built here last.

    \b
    Example:
      zoo cache list --json
    """
    from zoo.hub import Cache, cache_entries
    from zoo.store import all_built, parts

    registry = open_registry(overlays)
    built = all_built()
    found = cache_entries({e.name: e.weights for e in registry.values() if e.weights})
    rows = [
        {
            "key": held.key if as_json else held.key[:12],
            "size": held.size if as_json else human(held.size),
            "models": list(names),
            "source": "unfinished download" if held.partial else held.source,
        }
        for held, names in found
    ]
    rows += [
        {
            "key": (b.sha256 or "") if as_json else (b.sha256 or "")[:12],
            "size": b.size if as_json else human(b.size),
            "models": [b.name],
            "source": "built here",
        }
        for b in built
    ]
    emit(rows, as_json, {"key": "key", "size": "size", "models": "models", "source": "from"})
    total = sum(held.size for held, _ in found) + sum(b.size for b in built)
    others = [f"{human(size)} in {part}" for part, size in parts().items() if part not in ("blobs", "built", "partial")]
    beside = f"; beside them {', '.join(others)}" if others else ""
    click.echo(f"{len(rows)} files, {human(total)} in {Cache().folder}{beside}", err=True)


@cache.command("size")
@json_option
def cache_size(as_json: bool) -> None:
    """Say how much the cache holds, and each of its folders.

    \b
    Example:
      zoo cache size
    """
    from zoo.hub import Cache
    from zoo.store import parts

    folder = Cache().folder
    total = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    found = parts()
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "size": total, "parts": found}))
        return
    click.echo(f"{human(total)} in {folder}")
    for part, size in found.items():
        click.echo(f"  {part}: {human(size)}")


@cache.command("remove")
@click.argument("names", nargs=-1)
@click.option("--partial", is_flag=True, help="Unfinished downloads.")
@click.option("--unlisted", is_flag=True, help="Files that no entry of the registry names.")
@click.option("--built", is_flag=True, help="Every file that was built here.")
@click.option("--all", "everything", is_flag=True, help="Every downloaded file; those that were built here are kept.")
@click.pass_obj
def cache_remove(
    overlays: tuple[Path, ...], /, names: tuple[str, ...], partial: bool, unlisted: bool, built: bool, everything: bool
) -> None:
    """Remove the files of NAMES (models, wildcards, or the first characters of a key) from the cache, downloaded or built.

    \b
    Examples:
      zoo cache remove 'vgg*'
      zoo cache remove --partial --unlisted
    """
    from zoo.hub import Cache, cache_entries
    from zoo.store import all_built

    if not (names or partial or unlisted or built or everything):
        raise UserError("say what to remove: names, --partial, --unlisted, --built or --all")
    registry = open_registry(overlays)
    held = cache_entries({e.name: e.weights for e in registry.values() if e.weights})
    ours = all_built()
    known = {h.key for h, _ in held} | {b.sha256 for b in ours if b.sha256}
    keys = {key for key in known for n in names if len(n) >= 6 and key.startswith(n)}
    models = [n for n in names if not any(key.startswith(n) for key in known)]
    wanted = {e.name for e in registry.match(models)} if models else set()
    gone = [
        h
        for h, serves in held
        if everything
        or h.key in keys
        or (partial and h.partial)
        or (unlisted and not h.partial and not serves)
        or wanted & set(serves)
    ]
    freed = 0
    for key in {h.key for h in gone}:
        freed += Cache().remove(key)
        Cache().forget(key)
    doomed = [b for b in ours if built or b.name in wanted or b.sha256 in keys]
    freed += sum(b.remove() for b in doomed)
    click.echo(f"removed {len(gone) + len(doomed)} files, {human(freed)}")


COMMANDS = {"pull": pull, "verify": verify, "push": push, "lock": lock, "validate": validate, "cache": cache}
