"""What the commands share: the group that ends user errors in one paragraph, tables, sizes, and the common options."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.registry import Registry
    from zoo.registry.entry import ModelEntry


class Command(click.Group):
    """A group whose user errors print one paragraph and exit with 2, and whose Ctrl-C exits with 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; --registry may stand anywhere in it."""
        given = list(args[0] if args and args[0] is not None else kwargs.pop("args", None) or sys.argv[1:])
        try:
            status = super().main(_registries_first(given), *args[1:], **{**kwargs, "standalone_mode": False})
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


def _registries_first(given: Sequence[str]) -> list[str]:
    """Move --registry and its value before the command, where click looks for it; what comes after -- stays."""
    first: list[str] = []
    rest: list[str] = []
    places = iter(given)
    for word in places:
        if word == "--":
            rest += [word, *places]
        elif word == "--registry":
            first += [word, *[value for value in [next(places, None)] if value is not None]]
        elif word.startswith("--registry="):
            first.append(word)
        else:
            rest.append(word)
    return first + rest


def _fail(message: str, status: int) -> int:
    click.echo(message, err=True)
    return status


def emit(rows: Sequence[dict[str, Any]], as_json: bool, headers: dict[str, str]) -> None:
    """Print rows as JSON, or as a table of the columns that `headers` names."""
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from tabulate import tabulate

    body = [[cell(row.get(key)) for key in headers] for row in rows]
    click.echo(tabulate(body, headers=list(headers.values()), disable_numparse=True))


def cell(value: Any) -> str:
    """Return a value as a cell of a table."""
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
data_option = click.option(
    "--data", help="Images from parquet:PATH or folder:PATH instead of the data set that the registry names."
)
registry_option = click.option(
    "--registry",
    "overlays",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A registry file of your own that adds or shadows entries; may be given more than once (also $ZOO_REGISTRY).",
)


def model_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a model, for shells."""
    from zoo.registry import load

    return [name for name in load(ctx.find_root().params.get("overlays") or ()) if name.startswith(incomplete)]


def open_registry(overlays: Iterable[Path]) -> Registry:
    """Return the registry with overlays, telling on stderr what they shadow."""
    from zoo.registry import load

    registry = load(overlays)
    for name in registry.shadowed:
        click.echo(f"note: {registry.sources[name]} shadows the entry {name}", err=True)
    return registry


def chosen(registry: Registry, names: Sequence[str], suites: Sequence[str] = ()) -> list[ModelEntry]:
    """Return the entries that names (wildcards allowed) and suites ask for, all of them when neither is given."""
    from zoo.commands.suites import models_of

    wanted = [*names, *(name for suite in suites for name in models_of(suite))]
    return registry.match(wanted) if wanted else list(registry.values())
