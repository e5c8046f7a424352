"""Commands about suites and attacks as such."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from harness.commands.common import out_option
from zoo.commands.terminal import emit, json_option, open_registry
from zoo.errors import UserError


@click.command("list")
@json_option
@click.pass_obj
def list_command(overlays: tuple[Path, ...], /, as_json: bool) -> None:
    """List the suites that ship with the package, and how many of their models are here, can be pulled, or must be built.

    \b
    Example:
      harness list --json
    """
    from harness.suites.suite import load, names
    from zoo.hub.pulling import whereabouts

    registry = open_registry(overlays)
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
                **{where: len(models) for where, models in whereabouts(suite.model_names, registry).items()},
            }
        )
    headers = {"name": "name", "version": "version", "title": "title", "data": "data", "budget": "eps"}
    models = {"here": "here", "pull": "to pull", "build": "to build", "missing": "missing"}
    emit(rows, as_json, {**headers, "substitutes": "substitutes", "targets": "targets", **models})


@click.command("attacks")
@click.option("--parts", is_flag=True, help="List the parts that attacks are composed of instead.")
@json_option
def attacks_command(parts: bool, as_json: bool) -> None:
    """List the attacks: their family, their cost in passes per image at ten steps, their year and source.

    \b
    Examples:
      harness attacks --json
      harness attacks --parts
    """
    from harness.attacks import PARTS, describe, info, names

    rows: list[dict[str, Any]] = []
    if parts:
        rows = [{"slot": slot, "part": name, **describe(kind)} for slot, kinds in PARTS.items() for name, kind in kinds.items()]
        emit(rows, as_json, {"slot": "slot", "part": "part", "settings": "settings"})
        return
    for name in names():
        record = info(name)
        cost = record.attack().cost(10)
        passes = {"forwards": cost.forwards if cost else None, "backwards": cost.backwards if cost else None}
        shown = {"name": name, "category": record.category, **passes, "year": record.year}
        rows.append({**shown, "source": record.source, "doc": record.doc})
    headers = {"name": "name", "category": "category", "forwards": "forwards", "backwards": "backwards"}
    emit(rows, as_json, {**headers, "year": "year", "source": "source"})


@click.group("suite")
def suite_group() -> None:
    """Show a suite, or raise its version.

    \b
    Examples:
      harness suite show imagenet-qnn
      harness suite bump digits-qnn --because "20 steps: every ASR rises by about 3 points"
    """


@suite_group.command("show")
@click.argument("name")
@json_option
def show_command(name: str, as_json: bool) -> None:
    """Print the suite NAME (or a YAML file) with everything that it includes, as YAML that is a suite itself.

    \b
    Example:
      harness suite show imagenet-qnn
    """
    import yaml

    from harness.suites.suite import load

    content = load(name).model_dump(mode="json")
    text = json.dumps(content, indent=2, ensure_ascii=False) if as_json else yaml.safe_dump(content, sort_keys=False, width=120)
    click.echo(text.rstrip())


@suite_group.command("bump")
@click.argument("name")
@click.option("--because", required=True, help="What changes and what that does to the numbers, in one line.")
@click.option("--yes", is_flag=True, help="Do not ask before the suite's file is changed.")
@out_option
def bump_command(name: str, because: str, yes: bool, out: Path) -> None:
    """Raise the version of the suite NAME (or a YAML file) by one, with a line in the new version's changelog.

    Do this with any change that moves a number, to suites of your own, or in a checkout of the project. Older versions stay:
    the newest one that has rows is shown by default, others with harness board --version, and they are run by
    harness run --suite leaderboards/NAME/v1/suite.yaml.

    \b
    Example:
      harness suite bump digits-qnn --because "20 steps: every ASR rises by about 3 points"
    """
    from harness.suites.suite import find, load
    from harness.suites.versions import CHANGELOG, bump, check_own

    check_own(find(name))
    if not yes:
        version = load(name).version
        if not sys.stdin.isatty():
            raise UserError(f"{find(name)} would go from version {version} to {version + 1}; say --yes where nobody can be asked")
        click.confirm(f"change {find(name)} from version {version} to {version + 1}?", abort=True)
    suite = bump(name, because, out)
    click.echo(f"{find(name)}: version {suite.version}; {out / suite.name / f'v{suite.version}' / CHANGELOG}")


COMMANDS = (list_command, attacks_command, suite_group)
