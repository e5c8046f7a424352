"""`harness submit` and `harness verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.common import out_option, progress
from zoo.commands.terminal import json_option

if TYPE_CHECKING:
    from harness.submit.make import Walls
    from harness.suites.suite import Suite

workers_option = click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
hidden_option = click.option(
    "--hidden-seed", envvar="HARNESS_HIDDEN_SEED", help="Maintainers: the seed of the images that the suite holds back."
)
folder_argument = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


def walled(command: Any) -> Any:
    """Add the options that say how submitted code is walled in."""
    choices = click.Choice(["auto", "namespaces", "bubblewrap", "docker", "none"])
    words = "Isolation of submitted code; `none` runs it as you, and the row says so."
    for option in (
        click.option("--total-seconds", type=click.FloatRange(min=1), default=86400.0, show_default=True, help="Time in all."),
        click.option("--block-seconds", type=click.FloatRange(min=1), default=600.0, show_default=True, help="Time for a block."),
        click.option("--memory-mb", type=click.IntRange(64), default=4096, show_default=True, help="Memory for a block."),
        click.option("--sandbox", type=choices, default="auto", show_default=True, help=words),
    ):
        command = option(command)
    return command


def walls_of(sandbox: Any, memory_mb: int, block_seconds: float, total_seconds: float) -> Walls:
    """Return the walls that the options describe; a choice of none is warned about."""
    from harness.sandbox import Limits
    from harness.submit.make import Walls

    if sandbox == "none":
        click.echo("warning: --sandbox none runs the submitted code as you, with all that you can read and do", err=True)
    return Walls(sandbox, Limits(seconds=block_seconds, memory=memory_mb * 2**20), total_seconds)


def _suite(name: str | None) -> Suite | None:
    from harness.suites.suite import load

    return None if name is None else load(name)


@click.group("submit")
def submit() -> None:
    """Bring an attack of your own onto a leaderboard.

    \b
    Examples:
      harness submit new my-attack
      harness submit check my-attack
      harness submit run my-attack --suite digits-qnn
      harness submit add my-attack--digits-qnn.zip
    """


@submit.command("new")
@click.argument("name")
@click.option("--images", is_flag=True, help="For images that were made elsewhere, instead of code.")
@click.option("--in", "parent", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to make it.")
def new_command(name: str, images: bool, parent: Path) -> None:
    """Make a folder to start a submission from.

    \b
    Example:
      harness submit new my-attack
    """
    from harness.submit.scaffold import new

    folder = new(name, parent, images)
    click.echo(f"{folder}: edit submission.yaml{'' if images else ' and attack.py'}, then: harness submit check {folder}")


@submit.command("check")
@folder_argument
@click.option("--suite", "suite_name", default="digits-qnn", show_default=True, help="A suite, or the path of a suite's file.")
@walled
@json_option
def check_command(
    folder: Path, suite_name: str, sandbox: str, memory_mb: int, block_seconds: float, total_seconds: float, as_json: bool
) -> None:
    """Try a submission on a few images: budget, determinism, batch-mates, loss; say what fails and why.

    \b
    Example:
      harness submit check my-attack
    """
    from harness.submit.conformance import conformance
    from harness.suites.suite import load

    checks = []
    for check in conformance(folder, load(suite_name), walls_of(sandbox, memory_mb, block_seconds, total_seconds)):
        checks.append(check)
        if not as_json:
            click.echo(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.detail}")
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    if not all(check.passed for check in checks):
        raise click.exceptions.Exit(1)


@submit.command("run")
@folder_argument
@click.option("--suite", "suite_name", required=True, help="A suite's name (harness list), or a YAML file.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A .zip file or a folder to write; NAME--SUITE.zip by default.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images; such rows go to a board of their own.")
@click.option("--score/--no-score", default=True, show_default=True, help="Score the images here, to see how they do.")
@click.option("--no-images", is_flag=True, help="Leave the images out of a bundle of code, which makes them again anyway.")
@workers_option
@walled
@click.pass_obj
def run_command(
    overlays: tuple[Path, ...],
    /,
    folder: Path,
    suite_name: str,
    bundle: Path | None,
    limit: int | None,
    score: bool,
    no_images: bool,
    workers: int,
    sandbox: str,
    memory_mb: int,
    block_seconds: float,
    total_seconds: float,
) -> None:
    """Craft a submission's images on a suite, or read them, and write the bundle to hand in.

    \b
    Examples:
      harness submit run my-attack --suite digits-qnn
      harness submit run my-attack --suite digits-qnn --limit 50 --workers 2
      harness submit run my-attack --suite digits-qnn --no-images --bundle submissions/my-attack--digits-qnn
    """
    from harness.submit.pack import pack
    from harness.suites.suite import load

    suite = load(suite_name)
    path = bundle or Path(f"{folder.resolve().name}--{suite.name}.zip")
    walls = walls_of(sandbox, memory_mb, block_seconds, total_seconds)
    with progress() as notify:
        packed = pack(
            folder,
            suite,
            path,
            limit=limit,
            walls=walls,
            overlays=[str(p) for p in overlays],
            workers=workers,
            scored=score,
            with_images=not no_images,
            notify=notify,
        )
    for name, words in packed.results.items():
        click.echo(f"{name}: {words}")
    if packed.isolation:
        click.echo(f"isolation: {packed.isolation}", err=True)
    click.echo(f"{packed.path}: hand it in, or add it to a board: harness submit add {packed.path}")


@submit.command("add")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--evidence",
    type=click.Choice(["rescored", "regenerated"]),
    help="Tier of evidence; the best that the bundle allows by default.",
)
@click.option("--suite", "suite_name", help="The suite's file, when it does not ship with the package.")
@hidden_option
@out_option
@workers_option
@walled
@json_option
@click.pass_obj
def add_command(
    overlays: tuple[Path, ...],
    /,
    bundle: Path,
    evidence: Any,
    suite_name: str | None,
    hidden_seed: str | None,
    out: Path,
    workers: int,
    sandbox: str,
    memory_mb: int,
    block_seconds: float,
    total_seconds: float,
    as_json: bool,
) -> None:
    """Check a bundle, score it (after running its code behind walls), and write its rows and the board.

    \b
    Examples:
      harness submit add my-attack--digits-qnn.zip
      harness submit add my-attack--digits-qnn.zip --evidence rescored
    """
    from harness.submit.add import add

    walls = walls_of(sandbox, memory_mb, block_seconds, total_seconds)
    with progress() as notify:
        added = add(
            bundle,
            out,
            evidence=evidence,
            walls=walls,
            overlays=[str(p) for p in overlays],
            workers=workers,
            suite=_suite(suite_name),
            hidden_seed=hidden_seed,
            notify=notify,
        )
    if as_json:
        click.echo(json.dumps(asdict(added), indent=2, ensure_ascii=False, default=str))
        return
    for remark in added.remarks:
        click.echo(remark)
    for flag in added.flags:
        click.echo(f"look at: {flag}")
    if added.isolation:
        click.echo(f"isolation: {added.isolation}")
    click.echo(f"{len(added.written)} rows with evidence '{added.evidence}' in {added.folder}")


@submit.command("withdraw")
@click.argument("name")
@click.option("--suite", "suite_name", required=True, help="The suite whose board it is on.")
@click.option("--limit", type=click.IntRange(min=1), help="The board over the first N images.")
@out_option
def withdraw_command(name: str, suite_name: str, limit: int | None, out: Path) -> None:
    """Take a submission off a board; the chain keeps the record that it was there.

    \b
    Example:
      harness submit withdraw my-attack --suite digits-qnn
    """
    from harness.runs.runner import suite_folder
    from harness.submit.add import take_off
    from harness.suites.suite import load

    gone = take_off(suite_folder(out, load(suite_name), limit), name)
    click.echo(f"{len(gone)} rows withdrawn")


@submit.command("clear")
@click.argument("row", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--by", required=True, help="Your name, which stays in the row.")
@click.option("--because", required=True, help="Why the difference is innocent.")
def clear_command(row: Path, by: str, because: str) -> None:
    """Clear what verifications hold against a row; they stay in it, with your name and reason.

    \b
    Example:
      harness submit clear boards/digits-qnn/v1/rows/digits-vgg--my-attack--s0.json --by "A. Maintainer" --because "other CPU"
    """
    from harness.submit.disputes import clear

    click.echo(f"{clear(row, by, because)} cleared in {row.name}")


@submit.command("review")
@click.argument("head", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--base", required=True, type=click.Path(path_type=Path, file_okay=False, exists=True), help="The base branch.")
@click.option("--make", "suites", multiple=True, help="Make the rows of bundles for this suite; repeatable.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the report there, too, as Markdown.")
@workers_option
@walled
def review_command(
    head: Path,
    base: Path,
    suites: tuple[str, ...],
    report: Path | None,
    workers: int,
    sandbox: str,
    memory_mb: int,
    block_seconds: float,
    total_seconds: float,
) -> None:
    """Compare a checkout of a pull request with its base branch: one bundle and nothing else; make its rows where they are few.

    \b
    Example:
      harness submit review head --base base --make digits-qnn
    """
    from harness.submit.review import review

    walls = walls_of(sandbox, memory_mb, block_seconds, total_seconds)
    with progress() as notify:
        found = review(base, head, suites, walls, workers, notify)
    if report is not None and found.posted:
        from harness.storage.files import atomic_write

        atomic_write(report, found.markdown)
    click.echo(found.markdown)
    if found.problems:
        raise click.exceptions.Exit(1)


@click.command("verify")
@click.argument("target", type=click.Path(path_type=Path, exists=True))
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), default=0.1, show_default=True, help="Share of blocks.")
@click.option("--seed", type=click.IntRange(min=0), help="Which blocks; random by default, and printed.")
@click.option("--suite", "suite_name", help="The suite's file, when it does not ship with the package.")
@hidden_option
@workers_option
@walled
@json_option
@click.pass_obj
def verify(
    overlays: tuple[Path, ...],
    /,
    target: Path,
    fraction: float,
    seed: int | None,
    suite_name: str | None,
    hidden_seed: str | None,
    workers: int,
    sandbox: str,
    memory_mb: int,
    block_seconds: float,
    total_seconds: float,
    as_json: bool,
) -> None:
    """Craft a random share of a bundle (.zip or folder) or a row (.json) anew, score it, and print a verdict.

    \b
    Examples:
      harness verify my-attack--digits-qnn.zip --fraction 0.1
      harness verify leaderboards/digits-qnn/v1/rows/digits-vgg--mim--s0.json
    """
    from harness.submit.verify import verify as verify_path

    walls = walls_of(sandbox, memory_mb, block_seconds, total_seconds)
    with progress() as notify:
        found = verify_path(
            target,
            fraction,
            seed=seed,
            walls=walls,
            overlays=[str(p) for p in overlays],
            workers=workers,
            suite=_suite(suite_name),
            hidden_seed=hidden_seed,
            notify=notify,
        )
    if as_json:
        click.echo(json.dumps({**asdict(found), "holds": found.holds}, indent=2, ensure_ascii=False))
    else:
        for finding in found.findings:
            click.echo(f"{finding.verdict:14}  {finding.job}: {finding.detail}")
        for line in found.controls:
            click.echo(f"{'controls':14}  {line}")
        if found.isolation:
            click.echo(f"isolation: {found.isolation}")
        click.echo(f"{'holds' if found.holds else 'DOES NOT HOLD'} (sample seed {found.seed})")
    if not found.holds:
        raise click.exceptions.Exit(1)


COMMANDS = (submit, verify)
