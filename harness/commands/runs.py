"""Commands that run a suite or say what a run would do, has done, or did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.common import (
    data_option,
    device_option,
    executing,
    out_option,
    print_board,
    progress,
    selecting,
    suite_option,
)
from zoo.commands.terminal import emit, human, json_option, open_registry

if TYPE_CHECKING:
    from harness.runs.unfinished import Request


@click.command("run")
@selecting
@executing
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing (harness plan).")
@click.pass_obj
def run_command(overlays: tuple[Path, ...], /, out: Path, as_json: bool, dry_run: bool, **asked: Any) -> None:
    """Craft, check and score a suite, write its rows, and print the board.

    What is done already is kept: the same command goes on after a stop, and a second run reuses everything. An exception in
    an attack or a network costs its cells, which are recorded as missing with its message; its traceback goes to stderr, the
    run goes on, and exits with 1.

    \b
    Examples:
      harness run --suite digits-qnn
      harness run --suite digits-qnn --attack mim --substitute digits-resnet14-2bit-qaa
      harness run --suite digits-qnn --limit 50 --out /tmp/boards
      harness run --suite digits-qnn --attack mim,di --set decay=0.5 --limit 50 --out /tmp/boards
      harness run --suite leaderboards/digits-qnn/v1/suite.yaml
    """
    request = _request(overlays, asked)
    if dry_run:
        _print_plan(request, out, as_json, measure=True)
    else:
        _run(request, out, as_json)


def _request(overlays: tuple[Path, ...], asked: dict[str, Any]) -> Request:
    from harness.runs.unfinished import Request

    open_registry(overlays)
    from harness.runs.asked import changed

    asked["suite"] = asked.pop("suite_name")
    asked["attacks"] = changed(asked["attacks"], asked.pop("changes"))
    return Request(overlays=tuple(str(p) for p in overlays), **asked)


def _run(request: Request, out: Path, as_json: bool) -> None:
    from harness.api import perform
    from harness.runs.lacking import summed
    from harness.suites.suite import load
    from zoo.registry import load as load_registry

    with progress() as notify:
        report, board = perform(load(request.suite), request, out, notify)
    for reason in summed(report.blocked, load_registry(request.overlays), request.suite):
        click.echo(f"missing: {reason}", err=True)
    click.echo(f"{len(report.written)} rows made, {len(report.reused)} kept; {report.folder}", err=True)
    print_board(board, as_json)
    if report.crashes:
        click.echo(f"failed: {'; '.join(dict.fromkeys(map(str, report.crashes)))} (tracebacks above)", err=True)
        raise click.exceptions.Exit(1)


@click.command("resume")
@click.option("--suite", "suite_name", help="The suite whose run stopped, or its file; may be left out.")
@out_option
@json_option
def resume_command(suite_name: str | None, out: Path, as_json: bool) -> None:
    """Go on with a run that was stopped, with the arguments it was started with.

    \b
    Example:
      harness resume --suite digits-qnn
    """
    from harness.runs.unfinished import only_unfinished, unfinished

    folder = only_unfinished(out, suite_name)
    request = unfinished(folder)
    assert request is not None
    _run(request, out, as_json)
    if unfinished(folder) is not None:
        click.echo("another run stopped in that folder before this one; go on with it: harness resume", err=True)


@click.command("plan")
@selecting
@click.option("--no-measure", is_flag=True, help="Leave out the estimate of time, which runs each model for a moment.")
@click.pass_obj
def plan_command(overlays: tuple[Path, ...], /, out: Path, as_json: bool, no_measure: bool, **asked: Any) -> None:
    """Say what a run would do: jobs, models to fetch or build, cost in passes, time and disk, and what is done.

    \b
    Example:
      harness plan --suite digits-qnn --limit 100
    """
    _print_plan(_request(overlays, asked), out, as_json, measure=not no_measure)


def _print_plan(request: Request, out: Path, as_json: bool, measure: bool) -> None:
    from harness.runs.lacking import to_do_first
    from harness.runs.plan import plan, planned_workspace
    from harness.suites.suite import load
    from zoo.devices import check_device

    check_device(request.device)
    selection, suite = request.selection.bring(load(request.suite))
    workspace = planned_workspace(suite, request)
    found = plan(workspace, selection, out, measure)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    keys = {"substitute": "substitute", "attack": "attack", "seed": "seed", "images": "images", "done": "done", "row": "row"}
    emit([j.__dict__ for j in found.jobs], False, {**keys, "forwards": "forwards", "backwards": "backwards"})
    click.echo()
    if found.data_missing:
        click.echo(f"missing: {found.data_missing}")
    for line in to_do_first([m.name for m in found.models], workspace.registry, request.suite):
        click.echo(line)
    named = ("build", "missing", "unpinned")
    for reason in dict.fromkeys(m.missing for m in found.models if m.missing and m.route not in named):
        click.echo(f"missing: {reason}")
    rows = sum(j.row for j in found.jobs)
    time = "unknown" if found.seconds is None else _duration(found.seconds)
    click.echo(
        f"{found.suite} v{found.version}: {len(found.jobs)} jobs on {found.images or 'unknown'} images, {rows} rows there; "
        f"about {time} in one process on {found.device}, {human(found.disk)} of images to store"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@click.command("status")
@suite_option
@click.option("--version", type=click.IntRange(min=1), help="A version of the suite; the newest with rows by default.")
@click.option("--limit", type=click.IntRange(min=1), help="Of a trial on the first N images.")
@out_option
@json_option
@click.pass_obj
def status_command(
    overlays: tuple[Path, ...], /, suite_name: str, version: int | None, limit: int | None, out: Path, as_json: bool
) -> None:
    """Say which rows of a suite are there, which models it still lacks, and whether a run of it stopped half-way.

    \b
    Examples:
      harness status --suite digits-qnn
      harness status --suite digits-qnn --limit 50
    """
    from harness.runs.lacking import to_do_first
    from harness.runs.plan import at_version, others, status
    from harness.runs.runner import suite_folder
    from harness.runs.unfinished import unfinished
    from harness.suites.suite import load

    suite = at_version(load(suite_name), out, limit, version)
    folder = suite_folder(out, suite, limit)
    rows = status(suite, folder)
    emit(rows, as_json, {"name": "row", "state": "state", "reason": "reason"})
    if as_json:
        return
    if unfinished(folder) is not None:
        click.echo(f"a run stopped here; go on with: harness resume --suite {suite.name}", err=True)
    for line in to_do_first(suite.model_names, open_registry(overlays), suite_name):
        click.echo(line, err=True)
    for name, count, asked in others(suite, folder):
        click.echo(f"beside it, {name} has {count} rows{f': {asked}' if asked else ''}", err=True)


@click.command("reproduce")
@click.argument("row", type=click.Path(path_type=Path))
@data_option
@device_option
@json_option
@click.pass_obj
def reproduce_command(overlays: tuple[Path, ...], /, row: Path, device: str, as_json: bool) -> None:
    """Make one ROW again from its provenance and say whether the bytes, or the rates, agree; exits with 1 if neither.

    \b
    Example:
      harness reproduce leaderboards/digits-qnn/v1/rows/digits-vgg--mim--s0.json
    """
    from dataclasses import asdict

    from harness.runs.executors.local import single_thread
    from harness.runs.reproduce import reproduce

    single_thread()
    verdict = reproduce(row, device, tuple(str(p) for p in overlays))
    if as_json:
        facts = {"name": row.name, "images_identical": verdict.images_identical, "identical": verdict.identical}
        click.echo(json.dumps({**facts, "agrees": verdict.agrees, "targets": [asdict(t) for t in verdict.targets]}, indent=2))
    else:
        click.echo(verdict.words)
    if not verdict.agrees:
        raise click.exceptions.Exit(1)


@click.command("withdraw")
@click.argument("rows", nargs=-1, required=True, type=click.Path(path_type=Path))
def withdraw_command(rows: tuple[Path, ...]) -> None:
    """Take ROWS off a board of your own: rows that were made, or that could not be made and are listed as missing.

    A row is named by its file. The chain of the board keeps an entry for each row that was made; the next run that asks for it
    makes it again. Rows of submissions go by harness submit withdraw.

    \b
    Example:
      harness withdraw /tmp/boards/digits-qnn/v2-limit50/rows/digits-vgg--di--s0.json
    """
    from harness.runs.withdrawal import withdraw

    for row in rows:
        click.echo(withdraw(row))


COMMANDS = (run_command, resume_command, plan_command, status_command, reproduce_command, withdraw_command)
