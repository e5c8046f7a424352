"""The commands between networks of torch and files that engines run: `zoo export | import`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from zoo.commands.terminal import human, json_option, open_registry
from zoo.errors import UserError


@click.command("export")
@click.argument("name")
@click.option(
    "--to", "kind", type=click.Choice(["onnx", "tflite"]), default="onnx", show_default=True, help="Kind of file."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file; NAME.onnx here by default.")
@json_option
@click.pass_obj
def export_command(overlays: tuple[Path, ...], /, name: str, kind: str, out: Path | None, as_json: bool) -> None:
    """Write the quantised network NAME to a file that an engine runs: integer weights and scales, batch norm folded.

    At 8 bits weights and layer inputs are integers, which ONNX Runtime multiplies as integers; at 4 bits they are stored and
    rounded as such; activations of other widths, and of APoT, are rounded in float. What became of each is printed.

    \b
    Examples:
      zoo export digits-resnet14-8bit
      zoo export cifar10-resnet20-8bit --out /tmp/net.onnx --json
    """
    from zoo.engines.export_onnx import export_onnx

    entry = open_registry(overlays)[name]
    if kind == "tflite":
        raise UserError(
            f"{name}: no TFLite file is written: its integer kernels need a range for every tensor, and the networks here have "
            "ranges for what layers read only, so that sums and logits would get others than the network has; zoo export "
            f"{name} --to onnx writes the network as it is"
        )
    made = export_onnx(entry, out or Path(f"{entry.name}.onnx"))
    if as_json:
        click.echo(json.dumps(asdict(made) | {"path": str(made.path)}, indent=2))
        return
    click.echo(f"{made.path}: {human(made.size)}, sha256 {made.sha256}")
    for note in made.notes:
        click.echo(f"  {note}")


COMMANDS = (export_command,)
