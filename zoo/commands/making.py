"""The commands that make and measure models: `zoo build | eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.commands.terminal import human, json_option, open_registry

if TYPE_CHECKING:
    from zoo.registry.entry import ModelEntry


@click.command("eval")
@click.argument("names", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N test images.")
@click.option("--device", default="cpu", show_default=True, help="Where to run, such as cuda:0.")
@click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True)
@json_option
@click.pass_obj
def eval_command(
    overlays: tuple[Path, ...], /, names: tuple[str, ...], limit: int | None, device: str, batch_size: int, as_json: bool
) -> None:
    """Measure the clean accuracy of NAMES and hold it against the registry's claim.

    Exits with 1 when a model misses its claim by more than two points and the 95 % interval does not cover it:
    a wrong normalisation, label offset or file.

    \b
    Examples:
      zoo eval digits-resnet14-2bit
      zoo eval 'digits-vgg*' --json
    """
    from zoo.evaluate import evaluate

    registry = open_registry(overlays)
    found = []
    for entry in registry.match(names):
        row = evaluate(entry, limit=limit, device=device, batch_size=batch_size)
        found.append(row)
        if not as_json:
            click.echo(row["line"])
    if as_json:
        click.echo(json.dumps(found, indent=2))
    if not all(row["ok"] for row in found):
        raise click.exceptions.Exit(1)


@click.command("build")
@click.argument("names", nargs=-1, required=True)
@click.option("--device", default="cpu", show_default=True, help="Where to train, such as cuda:0.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files instead of the cache.")
@click.option("--again", is_flag=True, help="Make NAMES anew even where an earlier build finished them.")
@json_option
@click.pass_obj
def build_command(
    overlays: tuple[Path, ...], /, names: tuple[str, ...], device: str, out: Path | None, again: bool, as_json: bool
) -> None:
    """Make the weights of NAMES by their recipes, after everything that they start from; a stopped build resumes.

    What was finished before by the same recipe, from the same images and start, is kept.

    On several GPUs: accelerate launch -m zoo.cli build NAME.

    \b
    Examples:
      zoo build digits-resnet14-2bit
      zoo build 'digits-vgg*' --out /tmp/nets
    """
    from zoo.recipes.making import against_registry, make

    registry = open_registry(overlays)

    def announce(entry: ModelEntry, place: int, total: int) -> None:
        cost = entry.recipe.cost if entry.recipe else None
        click.echo(f"[{place}/{total}] {entry.name} on {entry.data}" + (f"; {cost}" if cost else ""), err=True)

    chosen = registry.match(names)
    reports = make(chosen, registry, device=device, out=out, again=again, progress=True, announce=announce)
    fields = ("name", "top1", "sha256", "size", "seconds", "path", "kept")
    rows = [{field: getattr(r, field) for field in fields} | {"path": str(r.path)} for r in reports]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for report in reports:
        verdict = against_registry(registry[report.name], report)
        took = "made before" if report.kept else f"{report.seconds:.0f} s"
        click.echo(f"{report.path}: {report.top1:.2f} %, {human(report.size)}, {took}; {verdict}")


COMMANDS = (eval_command, build_command)
