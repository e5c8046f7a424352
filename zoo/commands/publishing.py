"""The commands that publish and pin: `zoo push | lock`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.commands.terminal import chosen, emit, human, json_option, model_names, open_registry
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.hub import Locked
    from zoo.registry import Registry


@click.command()
@click.argument("name", shell_complete=model_names)
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
    from zoo.hub import pins_of, write_pins
    from zoo.hub import push as publish
    from zoo.loading.load import check_runs, weights_path

    registry = open_registry(overlays)
    entry = registry[name]
    weights = publish(entry, file or weights_path(entry), repo, check_runs, license=license, private=private)
    if pin:
        write_pins(registry.sources[entry.name], {entry.name: pins_of(weights, entry.weights)})
        click.echo(f"pinned in {registry.sources[entry.name]}", err=True)
    assert weights.hub is not None
    if as_json:
        click.echo(json.dumps({"name": entry.name, **weights.model_dump(exclude_none=True)}, indent=2))
    else:
        click.echo(f"{entry.name}: {repo} at {weights.hub.revision}, sha256 {weights.sha256}, {human(weights.size)}")


@click.command()
@click.argument("names", nargs=-1, shell_complete=model_names)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 when anything is missing or has moved.")
@click.option("--again", is_flag=True, help="Pin local files of NAMES anew where the registry says otherwise, as after training.")
@json_option
@click.pass_obj
def lock(overlays: tuple[Path, ...], /, names: tuple[str, ...], check: bool, again: bool, as_json: bool) -> None:
    """Fill in, from the Hub, the revisions, sha256 and sizes that NAMES (default: all) lack, and show what has moved.

    A pin that is there is never changed, but with --again those of local files. A file that the Hub gives no hash for is
    downloaded to be hashed.

    \b
    Examples:
      zoo lock inception-v3
      zoo lock --check --json
    """
    from zoo.hub import DownloadOptions
    from zoo.hub import lock as ask

    if again and not names:
        raise UserError("name the models whose local files are to be pinned anew, such as zoo lock --again my-net")
    registry = open_registry(overlays)
    found = ask(chosen(registry, names), DownloadOptions(progress=sys.stderr.isatty()), again=again)
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


COMMANDS = (push, lock)
