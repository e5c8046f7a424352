"""The commands that look a model up: `zoo list | show | validate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo.commands.terminal import cell, chosen, emit, human, json_option, model_names, open_registry


@click.command("list")
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
    from zoo.hub.pulling import availability
    from zoo.registry.listing import rows

    registry = open_registry(overlays)
    entries = registry.match(patterns) if patterns else list(registry.values())
    headers = {"name": "name", "family": "family", "data": "data", "arch": "architecture", "bits": "W/A", "method": "method"}
    found = rows(entries, availability, **filters)
    if not as_json:
        found = [{**row, "size": None if row["size"] is None else human(row["size"])} for row in found]
    emit(found, as_json, {**headers, "weights": "weights", "size": "size", "top1": "top-1"})


@click.command()
@click.argument("name", shell_complete=model_names)
@json_option
@click.pass_obj
def show(overlays: tuple[Path, ...], /, name: str, as_json: bool) -> None:
    """Show everything the registry knows of NAME, where its bytes would come from, and what is missing.

    \b
    Example:
      zoo show resnet34-2bit
    """
    from zoo.hub.pulling import availability, origins
    from zoo.registry.listing import details, unknown

    registry = open_registry(overlays)
    entry = registry[name]
    facts = {
        **details(entry, registry),
        "route": availability(entry),
        "bytes_from": origins(entry, registry),
        "unknown": unknown(entry),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from tabulate import tabulate

    body = [(key, json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else cell(v)) for key, v in facts.items()]
    click.echo(tabulate(body, tablefmt="plain", maxcolwidths=[None, 96], disable_numparse=True))


@click.command()
@click.argument("names", nargs=-1, shell_complete=model_names)
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
    from zoo.registry.listing import unknown

    registry = open_registry(overlays)
    entries = chosen(registry, names)
    rows = [{"name": e.name, "unknown": unknown(e)} for e in entries]
    rows = [row for row in rows if row["unknown"]]
    emit(rows, as_json, {"name": "name", "unknown": "not known yet"})
    click.echo(f"{len(entries)} entries read, {len(rows)} with something unknown", err=True)
    if strict and rows:
        raise click.exceptions.Exit(1)


COMMANDS = (list_command, show, validate)
