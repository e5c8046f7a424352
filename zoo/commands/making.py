"""The commands that make and measure models: `zoo build | eval`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.commands.terminal import chosen, data_option, human, json_option, model_names, open_registry
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.registry.entry import ModelEntry


@click.command("eval")
@click.argument("names", nargs=-1, required=True, shell_complete=model_names)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N test images.")
@click.option("--device", default="cpu", show_default=True, help="Where to run, such as cuda:0.")
@click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True)
@data_option
@json_option
@click.pass_obj
def eval_command(
    overlays: tuple[Path, ...],
    /,
    names: tuple[str, ...],
    limit: int | None,
    device: str,
    batch_size: int,
    data: str | None,
    as_json: bool,
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
        row = evaluate(entry, limit=limit, device=device, batch_size=batch_size, data=data)
        found.append(row)
        if not as_json:
            click.echo(row["line"])
    if as_json:
        click.echo(json.dumps(found, indent=2))
    if not all(row["ok"] for row in found):
        raise click.exceptions.Exit(1)


@click.command("build")
@click.argument("names", nargs=-1, shell_complete=model_names)
@click.option("--suite", "suites", multiple=True, help="Whatever a suite lacks and a recipe makes; repeatable.")
@click.option("--device", default="cpu", show_default=True, help="Where to train, such as cuda:0.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files instead of the cache.")
@click.option("--again", is_flag=True, help="Make NAMES anew even where an earlier build finished them.")
@data_option
@json_option
@click.pass_obj
def build_command(
    overlays: tuple[Path, ...],
    /,
    names: tuple[str, ...],
    suites: tuple[str, ...],
    device: str,
    out: Path | None,
    again: bool,
    data: str | None,
    as_json: bool,
) -> None:
    """Make the weights of NAMES by their recipes, in the order given and after everything that they start from.

    What was finished before by the same recipe, from the same images and start, is kept, and a stopped build resumes: the same
    command goes on. With --suite, the models of the suite that are not on this machine are made.

    On several GPUs: accelerate launch -m zoo.cli build NAME.

    \b
    Examples:
      zoo build digits-resnet14-2bit
      zoo build 'digits-vgg*' --out /tmp/nets
      zoo build --suite cifar10-bitwidth --device cuda:0
    """
    from zoo.recipes.making import against_registry, make, unmade

    registry = open_registry(overlays)
    if not names and not suites:
        raise UserError("name the models to build, such as zoo build digits-vgg, or a suite with --suite")
    wanted = {e.name: e for name in names for e in registry.match([name])}
    wanted |= {e.name: e for e in unmade(chosen(registry, (), suites), out)} if suites else {}
    if not wanted:
        click.echo("nothing to build: every model of the suite is on this machine", err=True)
        return
    clock = Clock()
    reports = make(
        wanted.values(), registry, device=device, out=out, again=again, progress=True, data=data, announce=clock.announce
    )
    fields = ("name", "top1", "sha256", "size", "seconds", "path", "kept")
    rows = [{field: getattr(r, field) for field in fields} | {"path": str(r.path)} for r in reports]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for report in reports:
        verdict = against_registry(registry[report.name], report)
        took = "made before" if report.kept else f"{report.seconds:.0f} s"
        top1 = f"zoo eval {report.name} measures it" if report.top1 is None else f"{report.top1:.2f} %"
        click.echo(f"{report.path}: {top1}, {human(report.size)}, {took}; {verdict}")


class Clock:
    """Tells which build begins, and about how long the rest will take, from how long the epochs before it took."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.epochs = 0

    def announce(self, entry: ModelEntry, place: int, order: Sequence[ModelEntry]) -> None:
        """Print one line about the build of the entry at a place, counted from 1, of those to be built."""
        ahead = sum(_epochs(e) for e in order[place - 1 :])
        if self.epochs:
            left = ahead * (time.monotonic() - self.began) / self.epochs
            when = f"about {left / 60:.0f} min for the rest" if left >= 90 else f"about {left:.0f} s for the rest"
        else:
            when = (entry.recipe.cost if entry.recipe else None) or "time not known yet"
        click.echo(f"[{place}/{len(order)}] {entry.name}; {when}", err=True)
        self.epochs += _epochs(entry)


def _epochs(entry: ModelEntry) -> int:
    return max((entry.recipe.epochs if entry.recipe else None) or 1, 1)


COMMANDS = (eval_command, build_command)
