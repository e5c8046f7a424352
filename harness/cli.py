"""The `harness` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import Command, emit, json_option, open_registry, registry_option
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board import Board
    from harness.run import Notify, Report

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("leaderboards"),
    show_default=True,
    help="Folder of the leaderboards.",
)
suite_option = click.option("--suite", "suite_name", required=True, help="A suite's name (harness list), or a YAML file.")


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


@main.command("run")
@suite_option
@click.option("--attack", "attacks", multiple=True, help="Only this attack (harness attacks); may be given more than once.")
@click.option("--substitute", "substitutes", multiple=True, help="Only this substitute of the suite.")
@click.option("--target", "targets", multiple=True, help="Only this target of the suite.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Seeds instead of the suite's.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images; goes to a folder of its own.")
@click.option("--device", default="cpu", show_default=True, help="Where to run, such as cuda:0.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; the usable cores on a CPU, one on a GPU.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in flight in a worker; never changes a result.")
@out_option
@json_option
@click.pass_obj
def run_command(
    overlays: tuple[Path, ...],
    /,
    suite_name: str,
    attacks: tuple[str, ...],
    substitutes: tuple[str, ...],
    targets: tuple[str, ...],
    seeds: tuple[int, ...],
    limit: int | None,
    device: str,
    workers: int | None,
    batch_size: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Craft, check and score a suite, write its rows, and print the board.

    What is done already is kept: the same command goes on after a stop, and a second run reuses everything.

    \b
    Examples:
      harness run --suite digits-qnn
      harness run --suite digits-qnn --attack mim --substitute digits-resnet14-2bit-qaa
      harness run --suite digits-qnn --limit 50 --out /tmp/boards
    """
    from harness.board import load as load_board
    from harness.board import write_files
    from harness.run import Selection, run
    from harness.suite import load

    open_registry(overlays)
    suite = load(suite_name)
    selection = Selection(attacks, substitutes, targets, seeds)
    with Progress() as progress:
        report = run(
            suite,
            out,
            selection,
            limit=limit,
            device=device,
            overlays=[str(p) for p in overlays],
            workers=workers,
            batch_size=batch_size,
            notify=progress,
        )
    _tell(report)
    board = load_board(report.folder)
    write_files(board, report.folder)
    _print_board(board, as_json)


def _tell(report: Report) -> None:
    for reason in dict.fromkeys(report.blocked.values()):
        click.echo(f"missing: {reason}", err=True)
    done = f"{len(report.written)} rows made, {len(report.reused)} kept"
    click.echo(f"{done}; {report.folder}", err=True)


@main.command("board")
@suite_option
@click.option("--version", "version", type=click.IntRange(min=1), help="A version of the suite; the newest by default.")
@click.option("--check", is_flag=True, help="Fail when the board's files and its rows disagree.")
@click.option("--mixed", is_flag=True, help="Rank and compare tiers of evidence together.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw ASR against bits as SVG or PNG.")
@out_option
@json_option
def board_command(
    suite_name: str, version: int | None, check: bool, mixed: bool, plot: Path | None, out: Path, as_json: bool
) -> None:
    """Print the leaderboard of a suite from its rows, without running anything.

    \b
    Examples:
      harness board --suite digits-qnn
      harness board --suite digits-qnn --check
      harness board --suite digits-qnn --plot digits-qnn.svg
    """
    from harness.board import check as check_folder
    from harness.board import load

    folder = _newest(out / suite_name, version)
    if check:
        problems = check_folder(folder)
        for problem in problems:
            click.echo(problem, err=True)
        if problems:
            raise click.exceptions.Exit(1)
        click.echo(f"{folder}: files and rows agree")
        return
    board = load(folder, mixed=mixed)
    if plot is not None:
        from harness.figure import draw

        draw(board, plot)
    _print_board(board, as_json)


def _newest(folder: Path, version: int | None) -> Path:
    if (folder / "suite.yaml").is_file():
        return folder
    found = {int(p.name[1:]): p for p in folder.glob("v*") if p.name[1:].isdigit()}
    if not found:
        raise UserError(f"{folder} holds no leaderboard; make one with: harness run --suite {folder.name}")
    if version is not None and version not in found:
        raise UserError(f"{folder} has no version {version}; it has {', '.join(map(str, sorted(found)))}")
    return found[version or max(found)]


def _print_board(board: Board, as_json: bool) -> None:
    click.echo(json.dumps(board.to_json(), indent=2, ensure_ascii=False) if as_json else board.to_text())


class Progress:
    """One bar per stage on a terminal; elsewhere one line per stage."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._title = ""

    def __enter__(self) -> Notify:
        return self._update

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _update(self, title: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            if done == total:
                click.echo(f"{title}: {total}", err=True)
            return
        from tqdm import tqdm

        if title != self._title:
            if self._bar is not None:
                self._bar.close()
            self._bar, self._title = tqdm(total=total, desc=title, leave=False, file=sys.stderr), title
        self._bar.update(done - self._bar.n)
