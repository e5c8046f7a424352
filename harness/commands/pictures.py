"""Commands that show boards: the site, its server, and pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.common import data_option, device_option, out_option, progress, suite_option
from zoo.commands.terminal import open_registry
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.board.site import Built

KINDS = ("heatmap", "bits", "gains", "cost", "ablation")

boards_option = click.option(
    "--leaderboards",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("leaderboards"),
    show_default=True,
    help="Folder of the leaderboards.",
)


workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Boards written at a time, each by a process; by default the usable cores."
)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command("site")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="An empty folder, or an older site.")
@boards_option
@click.option("--strict", is_flag=True, help="Fail when a board cannot be read.")
@workers_option
@click.pass_obj
def site_command(overlays: tuple[Path, ...], /, out: Path, leaderboards: Path, strict: bool, workers: int | None) -> None:
    """Write all boards, models and attacks as a static site that needs no server and no network.

    \b
    Examples:
      harness site --out site
      harness site --out site --leaderboards /tmp/boards
    """
    from harness.board.site import build

    built = build(out, leaderboards, overlays, workers or cores())
    _say(built)
    if strict and built.skipped:
        raise click.exceptions.Exit(1)


def _say(built: Built) -> None:
    for why in built.skipped:
        click.echo(f"left out: {why}", err=True)
    click.echo(f"{built.boards} boards on {built.pages} pages: {built.folder / 'index.html'}")


@click.command("serve")
@boards_option
@workers_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one.")
@click.pass_obj
def serve_command(overlays: tuple[Path, ...], /, leaderboards: Path, workers: int | None, host: str, port: int) -> None:
    """Build the site in a temporary folder and serve it until interrupted.

    \b
    Example:
      harness serve
    """
    import tempfile
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from harness.board.site import build

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "site"
        _say(build(folder, leaderboards, overlays, workers or cores()))
        try:
            server = ThreadingHTTPServer((host, port), partial(SimpleHTTPRequestHandler, directory=str(folder)))
        except OSError as error:
            why = f"cannot listen at {host}:{port}: {error.strerror}"
            raise UserError(f"{why}; give another --port, or 0 for a free one") from error
        with server:
            click.echo(f"http://{server.server_address[0]!s}:{server.server_address[1]}/ (Ctrl-C ends it)")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                click.echo("stopped", err=True)


@click.command("plot")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("picture", type=click.Path(path_type=Path, dir_okay=False))
@suite_option
@click.option("--version", "version", type=click.IntRange(min=1), help="A version of the suite; the newest with rows by default.")
@click.option("--limit", type=click.IntRange(min=1), help="The board of a trial on the first N images.")
@click.option("--attack", "attacks", multiple=True, help="Only this attack; repeatable.")
@click.option("--substitute", "substitutes", multiple=True, help="Only this substitute; repeatable.")
@click.option("--most", type=click.IntRange(min=1), default=60, show_default=True, help="Show at most so many lines, the best.")
@out_option
def plot_command(
    kind: str,
    picture: Path,
    suite_name: str,
    version: int | None,
    limit: int | None,
    attacks: tuple[str, ...],
    substitutes: tuple[str, ...],
    most: int,
    out: Path,
) -> None:
    """Draw a board into PICTURE, a .svg, .png or .pdf: nothing in it is told apart by colour alone.

    heatmap is substitutes x targets, bits ASR against bitwidth, gains a forest plot, cost ASR against gradients per image
    with its front, ablation one bar for each substitute and attack.

    \b
    Examples:
      harness plot bits digits.svg --suite digits-qnn
      harness plot gains gains.pdf --suite digits-qnn --attack mim
    """
    from harness.board import load
    from harness.board.plots import plot
    from harness.board.plots.style import Choice
    from harness.records.pinned import board_folder

    board = load(board_folder(out, suite_name, version, limit))
    plot(board, kind, picture, Choice(attacks, substitutes, most))
    click.echo(picture)


@click.command("samples")
@suite_option
@click.option("--version", "version", type=click.IntRange(min=1), help="A version of the suite; the newest with rows by default.")
@click.option("--limit", type=click.IntRange(min=1), help="The board of a trial on the first N images.")
@click.option("--attack", "attacks", multiple=True, help="Only this attack; repeatable.")
@click.option("--substitute", "substitutes", multiple=True, help="Only this substitute; repeatable.")
@click.option("--images", type=click.IntRange(1, 100), default=12, show_default=True, help="How many images a strip shows.")
@data_option
@device_option
@out_option
@click.pass_obj
def samples_command(
    overlays: tuple[Path, ...],
    /,
    suite_name: str,
    version: int | None,
    limit: int | None,
    attacks: tuple[str, ...],
    substitutes: tuple[str, ...],
    images: int,
    device: str,
    out: Path,
) -> None:
    """Keep a few clean and adversarial images of each row beside its board, for the image viewer of the site.

    They come from the cache, or are crafted again; only images with the digest that a row names are kept.

    \b
    Examples:
      harness samples --suite digits-qnn
      harness samples --suite cifar10-bitwidth --substitute cifar10-nin --data parquet:PATH
    """
    from harness.records.pinned import board_folder
    from harness.runs.executors.local import single_thread
    from harness.runs.samples import sample
    from zoo.devices import check_device

    open_registry(overlays)
    check_device(device)
    single_thread()
    folder = board_folder(out, suite_name, version, limit)
    made = sample(folder, images, device, tuple(str(p) for p in overlays), attacks, substitutes)
    for name, why in made.left_out.items():
        click.echo(f"left out: {name}: {why}", err=True)
    click.echo(f"strips of {len(made.written)} rows: {made.folder}")


@click.command("images")
@suite_option
@click.option("--substitute", required=True, help="The substitute of the suite that they are crafted on.")
@click.option("--attack", required=True, help="The attack (harness attacks).")
@click.option("--seed", type=click.IntRange(min=0), help="The seed; the suite's first by default.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the files.")
@data_option
@device_option
@click.pass_obj
def images_command(
    overlays: tuple[Path, ...],
    /,
    suite_name: str,
    substitute: str,
    attack: str,
    seed: int | None,
    limit: int | None,
    device: str,
    out: Path,
) -> None:
    """Write adversarial images as PNG, one file each, with a list of what they are.

    \b
    Example:
      harness images --suite digits-qnn --substitute digits-resnet14-2bit-qaa --attack mim --limit 20 --out images
    """
    from harness.runs.executors.local import single_thread
    from harness.runs.pngs import INDEX, write_pngs
    from harness.suites.selection import Job
    from harness.suites.suite import load

    open_registry(overlays)
    single_thread()
    suite = load(suite_name)
    job = Job(substitute, attack, suite.seeds[0] if seed is None else seed)
    with progress() as notify:
        own = tuple(str(p) for p in overlays)
        made = write_pngs(suite, job, out, limit=limit, device=device, overlays=own, notify=notify)
    click.echo(f"{len(made)} images, listed in {out / INDEX}")


COMMANDS = (samples_command, images_command, site_command, serve_command, plot_command)
