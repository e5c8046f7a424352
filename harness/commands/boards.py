"""Commands that read boards and run nothing."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.common import out_option, print_board, suite_option
from zoo.commands.terminal import json_option
from zoo.errors import UserError


@click.command("compare")
@click.argument("names", nargs=-1)
@click.option("--suite", "suite_name", required=True, help="The suite whose board is compared, or a YAML file.")
@click.option("--paper", is_flag=True, help="Put the paper's figures beside ours.")
@click.option("--versions", nargs=2, type=click.IntRange(min=1), help="Two versions of the suite.")
@out_option
def compare_command(names: tuple[str, ...], suite_name: str, paper: bool, versions: tuple[int, int] | None, out: Path) -> None:
    """Compare a board with the paper, two of its rows (SUBSTITUTE:ATTACK each), or two versions of a suite.

    \b
    Examples:
      harness compare --suite imagenet-qnn --paper
      harness compare --suite digits-qnn digits-resnet14-2bit-qaa:mim digits-resnet14:mim
      harness compare --suite digits-qnn --versions 1 2
    """
    from harness.board import load
    from harness.board.compare import (
        compare_boards,
        compare_lines,
        compare_reported,
        comparison_table,
        reported_table,
        unmeasured,
    )
    from harness.records.pinned import board_folder
    from harness.suites.suite import load as load_suite

    if versions:
        a, b = (load(board_folder(out, suite_name, v)) for v in versions)
        click.echo(compare_boards(a.lines, b.lines).to_text())
        return
    if paper:
        try:
            board = load(board_folder(out, suite_name))
        except UserError:
            figures = unmeasured(load_suite(suite_name).reported)  # nothing was run yet, the paper's figures are there
        else:
            figures = compare_reported(board.frame, board.lines)
        if not figures:
            raise UserError(f"suite {suite_name} repeats no figures of the paper; see harness suite show {suite_name}")
        click.echo(reported_table(figures).to_text())
        return
    board = load(board_folder(out, suite_name))
    if len(names) != 2 or not all(":" in n for n in names):
        raise UserError("name two rows as SUBSTITUTE:ATTACK, or give --paper, or --versions A B")
    first, second = (board.line(*n.split(":", 1)) for n in names)
    click.echo(comparison_table(first, second, compare_lines(first, second)).to_text())


@click.command("board")
@suite_option
@click.option("--version", "version", type=click.IntRange(min=1), help="A version of the suite; the newest with rows by default.")
@click.option("--limit", type=click.IntRange(min=1), help="The board of a trial on the first N images.")
@click.option("--check", is_flag=True, help="Fail when the board's files and its rows disagree.")
@click.option("--mixed", is_flag=True, help="Rank and compare tiers of evidence together.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw ASR against bits as SVG or PNG.")
@out_option
@json_option
def board_command(
    suite_name: str,
    version: int | None,
    limit: int | None,
    check: bool,
    mixed: bool,
    plot: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Print the leaderboard of a suite from its rows, without running anything.

    \b
    Examples:
      harness board --suite digits-qnn
      harness board --suite digits-qnn --check
      harness board --suite digits-qnn --plot digits-qnn.svg
    """
    from harness.board import check as check_folder
    from harness.board import load, no_rows
    from harness.records.pinned import board_folder

    folder = board_folder(out, suite_name, version, limit)
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
        from harness.board.plots import plot as draw
        from harness.board.plots.style import Choice

        draw(board, "bits", plot, Choice(), "--plot")
    print_board(board, as_json)
    if not board.lines:
        click.echo(no_rows(folder, board.suite.name), err=True)


COMMANDS = (compare_command, board_command)
