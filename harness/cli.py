"""The `harness` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import Command, emit, human, json_option, open_registry, registry_option
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board import Board
    from harness.run import Notify, Report
    from harness.unfinished import Request

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


def selecting(command: Any) -> Any:
    """Add the options that choose a part of a suite and where it runs."""
    for option in reversed(
        [
            suite_option,
            click.option("--attack", "attacks", multiple=True, help="Only this attack (harness attacks); repeatable."),
            click.option("--substitute", "substitutes", multiple=True, help="Only this substitute of the suite; repeatable."),
            click.option("--target", "targets", multiple=True, help="Only this target of the suite; repeatable."),
            click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Seeds instead of the suite's."),
            click.option("--limit", type=click.IntRange(min=1), help="Only the first N images; goes to a folder of its own."),
            click.option("--device", default="cpu", show_default=True, help="Where to run, such as cuda:0."),
            out_option,
            json_option,
        ]
    ):
        command = option(command)
    return command


@main.command("run")
@selecting
@click.option("--workers", type=click.IntRange(min=1), help="Processes; the usable cores on a CPU, one on a GPU.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in flight in a worker; never changes a result.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing (harness plan).")
@click.pass_obj
def run_command(overlays: tuple[Path, ...], /, out: Path, as_json: bool, dry_run: bool, **asked: Any) -> None:
    """Craft, check and score a suite, write its rows, and print the board.

    What is done already is kept: the same command goes on after a stop, and a second run reuses everything.

    \b
    Examples:
      harness run --suite digits-qnn
      harness run --suite digits-qnn --attack mim --substitute digits-resnet14-2bit-qaa
      harness run --suite digits-qnn --limit 50 --out /tmp/boards
    """
    from harness.unfinished import Request

    open_registry(overlays)
    asked["suite"] = asked.pop("suite_name")
    request = Request(overlays=tuple(str(p) for p in overlays), **asked)
    if dry_run:
        _print_plan(request, out, as_json, measure=True)
    else:
        _run(request, out, as_json)


def _run(request: Request, out: Path, as_json: bool) -> None:
    from harness.board import load as load_board
    from harness.board import write_files
    from harness.run import Selection, run
    from harness.suite import load

    selection = Selection(request.attacks, request.substitutes, request.targets, request.seeds)
    with Progress() as progress:
        report = run(
            load(request.suite),
            out,
            selection,
            limit=request.limit,
            device=request.device,
            overlays=request.overlays,
            workers=request.workers,
            batch_size=request.batch_size,
            notify=progress,
            suite_source=request.suite,
        )
    _tell(report)
    board = load_board(report.folder)
    write_files(board, report.folder)
    _print_board(board, as_json)


@main.command("resume")
@click.option("--suite", "suite_name", help="The suite whose run stopped; may be left out when only one did.")
@out_option
@json_option
def resume_command(suite_name: str | None, out: Path, as_json: bool) -> None:
    """Go on with a run that was stopped, with the arguments it was started with.

    \b
    Example:
      harness resume --suite digits-qnn
    """
    from harness.unfinished import only_unfinished, unfinished

    request = unfinished(only_unfinished(out, suite_name or "*"))
    assert request is not None
    _run(request, out, as_json)


@main.command("plan")
@selecting
@click.option("--no-measure", is_flag=True, help="Leave out the estimate of time, which runs each model for a moment.")
@click.pass_obj
def plan_command(overlays: tuple[Path, ...], /, out: Path, as_json: bool, no_measure: bool, **asked: Any) -> None:
    """Say what a run would do: jobs, models to fetch or build, cost in passes, time and disk, and what is done.

    \b
    Example:
      harness plan --suite digits-qnn --limit 100
    """
    from harness.unfinished import Request

    open_registry(overlays)
    asked["suite"] = asked.pop("suite_name")
    _print_plan(Request(overlays=tuple(str(p) for p in overlays), **asked), out, as_json, measure=not no_measure)


def _print_plan(request: Request, out: Path, as_json: bool, measure: bool) -> None:
    from harness.plan import plan
    from harness.run import Selection, check_device
    from harness.suite import load
    from harness.workbench import Context, workbench

    check_device(request.device)
    context = Context(load(request.suite), request.overlays, request.device, request.limit)
    selection = Selection(request.attacks, request.substitutes, request.targets, request.seeds)
    found = plan(workbench(context), selection, out, measure)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    keys = {"substitute": "substitute", "attack": "attack", "seed": "seed", "images": "images", "done": "done", "row": "row"}
    emit([j.__dict__ for j in found.jobs], False, {**keys, "forwards": "forwards", "backwards": "backwards"})
    absent = {m.missing: m for m in found.models if m.missing}
    click.echo()
    for reason in absent:
        click.echo(f"missing: {reason}")
    rows = sum(j.row for j in found.jobs)
    time = "unknown" if found.seconds is None else _duration(found.seconds)
    click.echo(
        f"{found.suite} v{found.version}: {len(found.jobs)} jobs on {found.images} images, {rows} rows there; "
        f"about {time} in one process on {found.device}, {human(found.disk)} of images to store"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@main.command("status")
@suite_option
@out_option
@json_option
@click.pass_obj
def status_command(overlays: tuple[Path, ...], /, suite_name: str, out: Path, as_json: bool) -> None:
    """Say which rows of a suite are there, and whether a run of it stopped half-way.

    \b
    Example:
      harness status --suite digits-qnn
    """
    from harness.plan import status
    from harness.suite import load
    from harness.unfinished import unfinished

    suite = load(suite_name)
    folder = out / suite.name / f"v{suite.version}"
    rows = status(suite, folder)
    emit(rows, as_json, {"name": "row", "state": "state", "reason": "reason"})
    if not as_json and unfinished(folder) is not None:
        click.echo(f"a run stopped here; go on with: harness resume --suite {suite_name}", err=True)


@main.command("reproduce")
@click.argument("row", type=click.Path(path_type=Path))
@click.option("--device", default="cpu", show_default=True, help="Where to run, such as cuda:0.")
@json_option
@click.pass_obj
def reproduce_command(overlays: tuple[Path, ...], /, row: Path, device: str, as_json: bool) -> None:
    """Make one ROW again from its provenance and say whether the bytes, or the rates, agree; exits with 1 if neither.

    \b
    Example:
      harness reproduce leaderboards/digits-qnn/v1/rows/digits-vgg--mim--s0.json
    """
    from dataclasses import asdict

    from harness.executors.local import single_thread
    from harness.reproduce import reproduce

    single_thread()
    verdict = reproduce(row, device, tuple(str(p) for p in overlays))
    if as_json:
        facts = {"name": row.name, "images_identical": verdict.images_identical, "identical": verdict.identical}
        click.echo(json.dumps({**facts, "agrees": verdict.agrees, "targets": [asdict(t) for t in verdict.targets]}, indent=2))
    else:
        click.echo(verdict.words)
    if not verdict.agrees:
        raise click.exceptions.Exit(1)


@main.command("compare")
@click.argument("names", nargs=-1)
@click.option("--suite", "suite_name", required=True, help="The suite whose board is compared.")
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
    from harness.board.compare import compare_boards, compare_lines, compare_reported, reported_table, versus_table

    if versions:
        a, b = (load(_newest(out / suite_name, v)) for v in versions)
        click.echo(compare_boards(a.lines, b.lines).to_text())
        return
    board = load(_newest(out / suite_name, None))
    if paper:
        if not board.suite.reported:
            raise UserError(f"suite {suite_name} repeats no figures of the paper; see harness show or its YAML")
        click.echo(reported_table(compare_reported(board.frame, board.lines)).to_text())
        return
    if len(names) != 2 or not all(":" in n for n in names):
        raise UserError("name two rows as SUBSTITUTE:ATTACK, or give --paper, or --versions A B")
    first, second = (board.line(*n.split(":", 1)) for n in names)
    click.echo(versus_table(first, second, compare_lines(first, second)).to_text())


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


if __name__ == "__main__":
    main()
