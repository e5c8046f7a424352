"""The `zoo` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.entry import ModelEntry
    from zoo.registry import Registry


class Command(click.Group):
    """A group whose user errors print one paragraph and exit with 2, and whose Ctrl-C exits with 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False})
        except UserError as error:
            raise SystemExit(_fail(f"Error: {error}", 2)) from None
        except click.ClickException as error:
            error.show()
            raise SystemExit(error.exit_code) from None
        except click.exceptions.Exit as error:
            raise SystemExit(error.exit_code) from None
        except (click.Abort, KeyboardInterrupt):
            raise SystemExit(_fail("Interrupted: what was finished is kept; the same command goes on from there.", 130)) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise SystemExit(0) from None
        if isinstance(status, int) and status:  # a command that exits by itself: click hands its status back here
            raise SystemExit(status)
        return status


def _fail(message: str, status: int) -> int:
    click.echo(message, err=True)
    return status


def emit(rows: Sequence[dict[str, Any]], as_json: bool, headers: dict[str, str]) -> None:
    """Print rows as JSON, or as a table of the columns that `headers` names."""
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from tabulate import tabulate

    body = [[_cell(row.get(key)) for key in headers] for row in rows]
    click.echo(tabulate(body, headers=list(headers.values()), disable_numparse=True))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def human(size: int | None) -> str:
    """Return a size in bytes as people read it."""
    if size is None:
        return "size unknown"
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
registry_option = click.option(
    "--registry",
    "overlays",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A registry file of your own that adds or shadows entries; may be given more than once (also $ZOO_REGISTRY).",
)


def open_registry(overlays: Iterable[Path]) -> Registry:
    """Return the registry with overlays, telling on stderr what they shadow."""
    from zoo.registry import load

    registry = load(overlays)
    for name in registry.shadowed:
        click.echo(f"note: {registry.sources[name]} shadows the entry {name}", err=True)
    return registry


class _Zoo(Command):
    """The zoo's commands; those that fetch and publish are imported when one of them is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        from zoo.hub.cli import COMMANDS

        return sorted([*super().list_commands(ctx), *COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        from zoo.hub.cli import COMMANDS

        return COMMANDS.get(cmd_name)


@click.group(cls=_Zoo, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qnn-transfer-zoo", prog_name="zoo")
@registry_option
@click.pass_context
def main(ctx: click.Context, overlays: tuple[Path, ...]) -> None:
    """Give me a model by its name: standard, adversarially trained, or quantised at any bitwidth.

    \b
    Examples:
      zoo list 'digits-*'
      zoo show resnet34-2bit
      zoo pull digits-resnet14-2bit
      zoo eval digits-resnet14-2bit
    """
    ctx.obj = overlays


@main.command("list")
@click.argument("patterns", nargs=-1)
@click.option("--family", type=click.Choice(["standard", "adversarial", "quantized"]), help="Only this family.")
@click.option("--data", help="Only models of this data set, such as imagenet.")
@click.option("--arch", help="Only this architecture (wildcards allowed), such as 'timm:resnet*'.")
@click.option("--bits", type=click.IntRange(1, 32), help="Only models with this activation bitwidth.")
@click.option("--method", help="Only this quantisation method, such as apot.")
@click.option("--available", is_flag=True, help="Only models whose weights are published or on this machine.")
@json_option
@click.pass_obj
def list_command(overlays: tuple[Path, ...], /, patterns: tuple[str, ...], as_json: bool, **filters: Any) -> None:
    """List models, all or those that match PATTERNS (shell wildcards).

    \b
    Examples:
      zoo list
      zoo list 'resnet34*' --json
      zoo list --family quantized --bits 2
    """
    from zoo.listing import rows

    registry = open_registry(overlays)
    entries = registry.match(patterns) if patterns else list(registry.values())
    headers = {"name": "name", "family": "family", "data": "data", "arch": "architecture", "bits": "W/A", "method": "method"}
    emit(rows(entries, **filters), as_json, {**headers, "weights": "weights", "top1": "top-1"})


@main.command()
@click.argument("name")
@json_option
@click.pass_obj
def show(overlays: tuple[Path, ...], /, name: str, as_json: bool) -> None:
    """Show everything the registry knows of NAME, where its bytes would come from, and what is missing.

    \b
    Example:
      zoo show resnet34-2bit
    """
    from zoo.listing import details

    registry = open_registry(overlays)
    facts = details(registry[name], registry)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from tabulate import tabulate

    body = [(key, json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else _cell(v)) for key, v in facts.items()]
    click.echo(tabulate(body, tablefmt="plain", maxcolwidths=[None, 96], disable_numparse=True))


@main.command("eval")
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


@main.command("build")
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
    from zoo.making import against_registry, make

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


if __name__ == "__main__":
    main()
