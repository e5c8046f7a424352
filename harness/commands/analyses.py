"""Commands that look into models: why one substitute transfers better than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.commands.common import data_option, device_option, out_option, suite_option
from zoo.commands.terminal import open_registry
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.analyze.study import Row, Study

COMMON = [
    suite_option,
    click.option("--model", "models", multiple=True, help="A substitute, or any entry; those of the suite's pairs by default."),
    click.option("--images", type=click.IntRange(min=2), default=200, show_default=True, help="The first N images of the suite."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of attacks and embeddings."),
    click.option("--again", is_flag=True, help="Compute anew what is remembered."),
    data_option,
    device_option,
    out_option,
]
target_option = click.option("--target", "targets", multiple=True, help="A target, or any entry; those of the suite by default.")
attack_option = click.option("--attack", default="mim", show_default=True, help="What crafts the adversarial images.")


@click.group("analyze")
def analyze() -> None:
    """Look into models: feature shift, gradient alignment, batch normalisation, states, sharpness, margins.

    Each writes <kind>.json, .csv and .svg into the folder `analysis` of the suite's board, remembers what it computed and goes
    on where it stopped.

    \b
    Examples:
      harness analyze alignment --suite digits-qnn
      harness analyze sharpness --suite digits-qnn --model digits-vgg --model digits-vgg-2bit-qaa
    """


def _common(command: Any) -> Any:
    for option in reversed(COMMON):
        command = option(command)
    return click.pass_obj(command)


class _Asked:
    """A study, the substitutes and targets that it is about, and where it writes."""

    def __init__(
        self,
        overlays: tuple[Path, ...],
        suite_name: str,
        models: tuple[str, ...],
        images: int,
        seed: int,
        again: bool,
        device: str,
        out: Path,
    ) -> None:
        from harness.analyze.study import Study
        from harness.runs.executors.local import single_thread
        from harness.runs.runner import suite_folder
        from harness.runs.workspace import forget
        from harness.suites.suite import load
        from zoo.devices import check_device

        open_registry(overlays)
        check_device(device)
        single_thread()
        forget()
        suite = load(suite_name)
        self.study: Study = Study(suite, images, device, seed, tuple(str(p) for p in overlays), again=again)
        self.folder = suite_folder(out, suite, None)
        self.named = models
        paired = [name for pair in suite.pairs for name in (pair.baseline, *pair.controls, pair.substitute)]
        self.substitutes = list(dict.fromkeys(models or paired or [spec.name for spec in suite.substitutes]))

    def targets(self, named: Sequence[str]) -> list[str]:
        """Return the targets that were named, or those of the suite whose weights can be had."""
        from harness.runs.admission import absent_models

        chosen = list(named or self.study.suite.target_names)
        absent = absent_models(self.study.workspace, chosen)
        for name, why in absent.items():
            if named:
                raise UserError(why)
            click.echo(f"left out: {name}: {why}", err=True)
        return [name for name in chosen if name not in absent]

    def report(self, kind: str, settings: Row, tables: Mapping[str, Sequence[Row]]) -> None:
        """Write what was found, and say where."""
        from harness.analyze.pictures import PICTURES
        from harness.analyze.report import FOLDER, write
        from harness.board.plots.style import open_style, save

        for row in tables.get("refused", ()):
            click.echo(f"left out: {row['model']}: {row['reason']}", err=True)
        paths = write(self.folder, kind, self.study, settings, tables)
        first = next(iter(tables.values()))
        if first:
            with open_style(kind):
                paths.append(self.folder / FOLDER / f"{kind}.svg")
                save(PICTURES[kind](tables), paths[-1])
        for path in paths:
            click.echo(path)


@analyze.command("shift")
@_common
@target_option
@attack_option
@click.option("--layers", type=click.Choice(["blocks", "convs"]), default="blocks", show_default=True, help="Which features.")
def shift_command(overlays: tuple[Path, ...], /, targets: tuple[str, ...], attack: str, layers: Any, **asked: Any) -> None:
    """Say how far adversarial images move a target's features, layer by layer (Eq. 8), with the white-box line.

    \b
    Example:
      harness analyze shift --suite digits-qnn --target digits-nin-2bit --images 100
    """
    from harness.analyze import shift

    a = _Asked(overlays, **asked)
    rows = shift.analyze(a.study, a.substitutes, a.targets(targets), attack, layers)
    a.report("shift", {"attack": attack, "layers": layers}, {"shift": rows})


@analyze.command("alignment")
@_common
@target_option
def alignment_command(overlays: tuple[Path, ...], /, targets: tuple[str, ...], **asked: Any) -> None:
    """Say how alike input gradients are (Eq. 9), with rival measures, gradient norms, and the models in three dimensions.

    \b
    Example:
      harness analyze alignment --suite digits-qnn
    """
    from harness.analyze import alignment

    a = _Asked(overlays, **asked)
    found = alignment.analyze(a.study, a.study.single(a.substitutes), a.targets(targets))
    settings = {"edges": alignment.EDGES, "bins": alignment.BINS, "cells": alignment.CELLS, "vanished": alignment.VANISHED}
    a.report("alignment", settings, found)


@analyze.command("batchnorm")
@_common
def batchnorm_command(overlays: tuple[Path, ...], /, **asked: Any) -> None:
    """Compare what batch normalisations keep with what reaches them in each state of a model, channel by channel (Fig. 2).

    \b
    Example:
      harness analyze batchnorm --suite digits-qnn --model digits-resnet14 --model digits-resnet14-2bit
    """
    from harness.analyze import batchnorm

    a = _Asked(overlays, **asked)
    a.report("batchnorm", {}, batchnorm.analyze(a.study, a.study.single(a.substitutes)))


@analyze.command("states")
@_common
@attack_option
def states_command(overlays: tuple[Path, ...], /, attack: str, **asked: Any) -> None:
    """Hold the states of alternating substitutes fixed and say what their alternation adds (Table IX).

    \b
    Example:
      harness analyze states --suite digits-qnn --images 100
    """
    from harness.analyze import states

    a = _Asked(overlays, **asked)
    a.report("states", {"attack": attack}, states.analyze(a.study, a.named, attack))


@analyze.command("sharpness")
@_common
@attack_option
@click.option("--space", "spaces", multiple=True, type=click.Choice(["effective", "latent", "feature"]), help="Only this space.")
@click.option("--eps", "widths", multiple=True, type=click.FloatRange(min=0, min_open=True), help="Half width of the box.")
def sharpness_command(
    overlays: tuple[Path, ...], /, attack: str, spaces: tuple[Any, ...], widths: tuple[float, ...], **asked: Any
) -> None:
    """Measure loss sharpness around effective weights, latent weights and adversarial images (Eqs. 10 and 11, Table X).

    \b
    Example:
      harness analyze sharpness --suite digits-qnn --model digits-vgg --model digits-vgg-2bit-qaa --images 100
    """
    from harness.analyze import sharpness

    a = _Asked(overlays, **asked)
    chosen = spaces or ("effective", "latent", "feature")
    found = sharpness.analyze(a.study, a.study.single(a.substitutes), chosen, widths or sharpness.EPS, attack)
    a.report("sharpness", {"attack": attack, "steps": sharpness.STEPS, "factor": sharpness.FACTOR}, found)


@analyze.command("margins")
@_common
@target_option
@attack_option
def margins_command(overlays: tuple[Path, ...], /, targets: tuple[str, ...], attack: str, **asked: Any) -> None:
    """Say whether the images that are fooled are those that the target was least sure of.

    \b
    Example:
      harness analyze margins --suite digits-qnn --images 200
    """
    from harness.analyze import margins

    a = _Asked(overlays, **asked)
    rows = margins.analyze(a.study, a.substitutes, a.targets(targets), attack)
    a.report("margins", {"attack": attack, "parts": margins.PARTS}, {"margins": rows})


COMMANDS = (analyze,)
