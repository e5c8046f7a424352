"""The commands on the folder of downloaded and built files: `zoo cache list | size | remove`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from zoo.commands.terminal import emit, human, json_option, open_registry
from zoo.errors import UserError

_BY_FILE = ("blobs", "built", "partial", "checkpoints", "refs", "locks")
"""Folders of the cache whose content is listed by file, and locks, which are empty."""


@click.group()
def cache() -> None:
    """Show or empty the folder of downloaded and built files ($ZOO_CACHE, otherwise zoo in the user's cache folder)."""


@cache.command("list")
@json_option
@click.pass_obj
def cache_list(overlays: tuple[Path, ...], /, as_json: bool) -> None:
    """List what the cache holds with the models that it serves: files, builds, records of unpinned sources, whole folders.

    \b
    Example:
      zoo cache list --json
    """
    from zoo.hub import Cache, accepted_name, cache_entries
    from zoo.hub.store import all_built, all_unfinished, parts

    registry = open_registry(overlays)
    built, stopped, records = all_built(), all_unfinished(), Cache().records()
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
    rows += [
        {"key": u.path.name, "size": u.size if as_json else human(u.size), "models": [u.name], "source": "unfinished build"}
        for u in stopped
    ]
    for record in records:
        name, size = accepted_name(record.source), record.path.stat().st_size
        rows.append(
            {
                "key": record.sha256 if as_json else record.sha256[:12],
                "size": size if as_json else human(size),
                "models": [name] if name else [],
                "source": "record of what was accepted unpinned" if name else f"record of {record.source}",
            }
        )
    whole = {part: size for part, size in parts().items() if part not in _BY_FILE and size}
    rows += [
        {"key": part, "size": size if as_json else human(size), "models": [], "source": f"zoo cache remove --part {part}"}
        for part, size in whole.items()
    ]
    emit(rows, as_json, {"key": "key", "size": "size", "models": "models", "source": "from"})
    files = len(found) + len(built)
    total = sum(held.size for held, _ in found) + sum(b.size for b in built)
    others = [f"{human(sum(u.size for u in stopped))} of unfinished builds"] if stopped else []
    others += [f"{human(size)} in {part}" for part, size in whole.items()]
    beside = f"; beside them {', '.join(others)}" if others else ""
    click.echo(f"{files} files, {human(total)} in {Cache().folder}{beside}", err=True)


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
@click.option("--unfinished", is_flag=True, help="What stopped builds would go on from.")
@click.option("--part", "wholes", multiple=True, help="A folder or file of the cache as a whole, such as images; repeatable.")
@click.option("--all", "everything", is_flag=True, help="Every downloaded file; those that were built here are kept.")
@click.pass_obj
def cache_remove(
    overlays: tuple[Path, ...],
    /,
    names: tuple[str, ...],
    partial: bool,
    unlisted: bool,
    built: bool,
    unfinished: bool,
    wholes: tuple[str, ...],
    everything: bool,
) -> None:
    """Remove the files of NAMES (models, wildcards, or the first characters of a key) from the cache.

    What goes with a model: what was downloaded or built, a stopped build, and the record of a file that was accepted unpinned.

    \b
    Examples:
      zoo cache remove 'vgg*'
      zoo cache remove --partial --unlisted
      zoo cache remove --part images
    """
    from zoo.hub import Cache, accepted_name, cache_entries
    from zoo.hub.store import all_built, all_unfinished, empty

    if not (names or partial or unlisted or built or unfinished or wholes or everything):
        raise UserError("say what to remove: names, --partial, --unlisted, --built, --unfinished, --part or --all")
    registry = open_registry(overlays)
    held = cache_entries({e.name: e.weights for e in registry.values() if e.weights})
    ours, records = all_built(), Cache().records()
    known = {h.key for h, _ in held} | {b.sha256 for b in ours if b.sha256} | {r.sha256 for r in records}
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
    forgotten = [r for r in records if everything or r.sha256 in keys or accepted_name(r.source) in wanted]
    for record in forgotten:
        record.path.unlink(missing_ok=True)
    doomed = [b for b in ours if built or b.name in wanted or b.sha256 in keys]
    stopped = [u for u in all_unfinished() if unfinished or u.name in wanted]
    freed += sum(b.remove() for b in doomed) + sum(u.remove() for u in stopped) + sum(empty(part) for part in wholes)
    click.echo(f"removed {len(gone) + len(doomed) + len(stopped)} files{_also(forgotten, wholes)}, {human(freed)}")


def _also(forgotten: Sequence[object], wholes: Sequence[str]) -> str:
    records = f", {len(forgotten)} record{'s' * (len(forgotten) != 1)}" if forgotten else ""
    return records + "".join(f", {part}" for part in wholes)


COMMANDS = (cache,)
