"""The commands between networks of torch and files that engines run: `zoo export | import | agree`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from zoo.commands.terminal import data_option, human, json_option, open_registry
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

    Weights and layer inputs of at most 8 bits are integers, which ONNX Runtime multiplies as such where it also quantises the
    sum; weights of at most 4 bits are stored in 4. Activations of APoT are rounded in float. What became of each is printed.

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


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="What the entry is to be called.")
@click.option("--data", default="imagenet", show_default=True, help="Data set that it classifies.")
@click.option(
    "--arch",
    help="Architecture, as other entries say it, so that cells of the same one are marked; file:NAME by default.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a registry file of one's own instead."
)
@json_option
def import_command(file: Path, name: str, data: str, arch: str | None, out: Path | None, as_json: bool) -> None:
    """Read an integer .tflite network into torch, and print the registry entry that names it.

    The network computes with the file's own integers and ranges, and rounding passes gradients straight through, so that it is
    a substitute with gradients for the network that runs in the engine (zoo agree says how alike they are). Its inputs are the
    images' bytes. Files of 1001 ImageNet classes get label_offset 1.

    \b
    Examples:
      zoo import mobilenet_v2_1.0_224_quant.tflite --name my-mobilenet
      zoo import net.tflite --name my-net --data cifar10 --out mine.yaml
    """
    from zoo.engines.importing import entry_fields, registry_text

    if not file.is_file():
        raise UserError(f"there is no file {file}")
    if out is not None and out.exists():
        raise UserError(
            f"{out} is there already: name another file, or put the entry that is printed without --out into it"
        )
    fields, told = entry_fields(file, name, data, arch)
    text = json.dumps({name: fields}, indent=2) if as_json else registry_text(name, fields)
    if out is None:
        click.echo(text.rstrip("\n"))
    else:
        from zoo.hub.whole import write_whole

        write_whole(out, registry_text(name, fields).encode())
        click.echo(f"{out}: try zoo --registry {out} eval {name}")
    click.echo(told, err=True)


@click.command("agree")
@click.argument("name")
@click.option("--with", "other", help="The other network, where it is not the one that the registry gives.")
@click.option(
    "--images",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Also these images, such as adversarial ones: safetensors with one uint8 tensor; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images.")
@data_option
@json_option
@click.pass_obj
def agree_command(
    overlays: tuple[Path, ...],
    /,
    name: str,
    other: str | None,
    files: tuple[Path, ...],
    limit: int | None,
    data: str | None,
    as_json: bool,
) -> None:
    """Compare the two forms of network NAME image by image: fake-quantised in torch, and as integers in its engine.

    NAME runs in an engine, was imported from such a file, or is a quantised network, which is then exported and run in ONNX
    Runtime. Clean images are the data set's test images; adversarial ones come by --images, in the same order.

    \b
    Examples:
      zoo agree digits-resnet14-8bit
      zoo agree mobilenet-v2-imported --data parquet:PATH --images adversarial.safetensors
    """
    from zoo.engines.agreement import compare, forms, read_images
    from zoo.evaluate import images, other_images

    registry = open_registry(overlays)
    entry = registry[name]
    found = (images(entry) if data is None else other_images(data)).head(limit)
    sets = {"clean": found.images, **{str(path): read_images(path, found.images)[:limit] for path in files}}
    rows = []
    with forms(entry, registry, None if other is None else registry[other]) as (torch_form, engine_form):
        for title, pixels in sets.items():
            made = compare(torch_form.model, engine_form.model, pixels, found.labels[: len(pixels)])
            rows.append({"set": title, "torch": torch_form.name, "engine": engine_form.name, **asdict(made)})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(_agreement_line(row))


def _agreement_line(row: dict[str, Any]) -> str:
    n, right = row["images"], row["right"]
    line = (
        f"{row['torch']} and {row['engine']} on {n} images ({row['set']}): same top class on {100 * row['equal'] / n:.2f} % "
        f"({100 * row['low']:.1f} to {100 * row['high']:.1f}); error of {row['outputs']} {row['mean_error']:.4f} on average, "
        f"{row['max_error']:.4f} at most, their SD {row['spread']:.4f}"
    )
    if row["ties"]:
        line += f"; {row['ties']} of the {n - row['equal']} others are ties in the engine"
    if right is not None:
        line += f"; right: {100 * right[0] / n:.2f} and {100 * right[1] / n:.2f} %"
    return line


COMMANDS = (export_command, import_command, agree_command)
