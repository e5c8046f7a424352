"""The commands on the folder of downloaded and built files: `zoo cache list | size | remove`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo.commands.terminal import emit, human, json_option, open_registry
from zoo.errors import UserError


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
    from zoo.hub.store import all_built, parts

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
    from zoo.hub.store import parts

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
    from zoo.hub.store import all_built

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


COMMANDS = (cache,)
