"""Options and output that several commands share."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.commands.terminal import json_option

if TYPE_CHECKING:
    from harness.board import Board
    from harness.runs.stage import Notify

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("leaderboards"),
    show_default=True,
    help="Folder of the leaderboards.",
)


def _suite_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a suite, for shells."""
    from harness.suites.suite import names

    return [name for name in names() if name.startswith(incomplete)]


def _parts_of_suite(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of an attack, or of a substitute or target of the suite that --suite names."""
    from harness.suites.suite import load
    from zoo.errors import UserError

    try:
        suite = load(str(ctx.params.get("suite_name")))
    except UserError:
        return []
    if param.name == "attacks":
        from harness.attacks import names

        known = [*suite.attack_names, *names()]
    else:
        known = suite.target_names if param.name == "targets" else [s.name for s in suite.substitutes]
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in dict.fromkeys(known) if name.startswith(last)]


suite_option = click.option(
    "--suite", "suite_name", required=True, shell_complete=_suite_names, help="A suite's name (harness list), or a YAML file."
)
device_option = click.option("--device", default="cpu", show_default=True, help="Where to run, such as cuda:0.")


def _take_copy(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """Let this process, and the workers that it starts, read the named data sets from a local copy."""
    if value is None:
        return
    before = os.environ.get("ZOO_DATA")
    os.environ["ZOO_DATA"] = value
    ctx.call_on_close(lambda: os.environ.pop("ZOO_DATA") if before is None else os.environ.update(ZOO_DATA=before))


data_option = click.option(
    "--data",
    callback=_take_copy,
    expose_value=False,
    help="A local copy of the suite's images: parquet:PATH or folder:PATH (also $ZOO_DATA).",
)


def _several(option: str, name: str, words: str) -> Any:
    """Return an option that may be given more than once, each time with one name or several between commas."""

    def split(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(part for value in given for part in map(str.strip, value.split(",")) if part)

    return click.option(option, name, multiple=True, callback=split, shell_complete=_parts_of_suite, help=words)


def selecting(command: Any) -> Any:
    """Add the options that choose a part of a suite and where it runs."""
    for option in reversed(
        [
            suite_option,
            _several("--attack", "attacks", "Only this attack (harness attacks); repeatable, or several with commas."),
            click.option(
                "--set",
                "changes",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change a part or setting of the attacks that --attack names, such as decay=0.5 or loss.fia.keep=0.9.",
            ),
            _several("--substitute", "substitutes", "Only this substitute of the suite; likewise."),
            _several("--target", "targets", "Only this target of the suite; likewise."),
            click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Seeds instead of the suite's."),
            click.option("--limit", type=click.IntRange(min=1), help="Only the first N images; goes to a folder of its own."),
            click.option("--full", is_flag=True, help="All images of the data set; goes to a folder of its own."),
            data_option,
            device_option,
            out_option,
            json_option,
        ]
    ):
        command = option(command)
    return command


def executing(command: Any) -> Any:
    """Add the options that say what does the work."""
    for option in reversed(
        [
            click.option("--workers", type=click.IntRange(min=1), help="Processes; the usable cores on a CPU, one on a GPU."),
            click.option(
                "--queue",
                "--batch-size",
                "queue",
                type=click.IntRange(min=1),
                help="Images that wait at a worker; changes no result. --batch-size is its old name.",
            ),
            click.option(
                "--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What does the work."
            ),
            click.option("--address", help="Address of a Ray cluster; one is started on this machine when left out."),
            click.option(
                "--precision",
                type=click.Choice(["exact", "tf32", "bf16"]),
                default="exact",
                show_default=True,
                help="Faster, and other images; such rows go to a folder of their own, with a report of what differs.",
            ),
            click.option("--compile", "compiled", is_flag=True, help="Compile networks; likewise in a folder of its own."),
            click.option("--gpus", type=click.FloatRange(min=0), help="GPUs, or a fraction of one, that each task takes on Ray."),
            click.option("--fail-fast", is_flag=True, help="End with the first cell that fails; by default it is recorded."),
        ]
    ):
        command = option(command)
    return command


def print_board(board: Board, as_json: bool) -> None:
    """Print a board as text or JSON."""
    click.echo(json.dumps(board.to_json(), indent=2, ensure_ascii=False) if as_json else board.to_text())


def progress() -> AbstractContextManager[Notify]:
    """Return a context that shows how far a run is: bars on a terminal, elsewhere one line per stage."""
    from harness.runs.progress import Progress

    return Progress(lambda line: click.echo(line, err=True))
