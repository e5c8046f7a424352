"""The `harness` command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands import boards, runs
from zoo.cli import Command, emit, json_option, registry_option


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qnn-transfer-zoo", prog_name="harness")
@registry_option
@click.pass_context
def main(ctx: click.Context, overlays: tuple[Path, ...]) -> None:
    """Benchmark transfer attacks, with and without QAA, against targets of every architecture and bitwidth.

    \b
    Examples:
      harness list
      harness run --suite digits-qnn
      harness board --suite digits-qnn
    """
    ctx.obj = overlays


@main.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the suites that ship with the package.

    \b
    Example:
      harness list --json
    """
    from harness.suite import load, names

    rows: list[dict[str, Any]] = []
    for name in names():
        suite = load(name)
        rows.append(
            {
                "name": suite.name,
                "version": suite.version,
                "title": suite.title,
                "data": suite.data.name,
                "budget": f"{suite.budget.levels}/255",
                "attacks": suite.attack_names,
                "substitutes": len(suite.substitutes),
                "targets": len(suite.target_names),
            }
        )
    headers = {"name": "name", "version": "version", "title": "title", "data": "data", "budget": "eps"}
    emit(rows, as_json, {**headers, "substitutes": "substitutes", "targets": "targets"})


@main.command("attacks")
@json_option
def attacks_command(as_json: bool) -> None:
    """List the attacks: their family, their cost in passes per image at ten steps, their source.

    \b
    Example:
      harness attacks --json
    """
    from harness.attacks import info, names

    rows: list[dict[str, Any]] = []
    for name in names():
        record = info(name)
        cost = record.attack().cost(10)
        passes = {"forwards": cost.forwards if cost else None, "backwards": cost.backwards if cost else None}
        rows.append({"name": name, "category": record.category, **passes, "source": record.source, "doc": record.doc})
    headers = {"name": "name", "category": "category", "forwards": "forwards", "backwards": "backwards", "source": "source"}
    emit(rows, as_json, headers)


for command in (*runs.COMMANDS, *boards.COMMANDS):
    main.add_command(command)
