"""The `zoo` command."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.commands import cache, deploying, fetching, looking, making, publishing
from zoo.commands.terminal import Command, registry_option


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qnn-transfer-zoo", prog_name="zoo")
@registry_option
@click.pass_context
def main(ctx: click.Context, overlays: tuple[Path, ...]) -> None:
    """Give me a model by its name: standard, adversarially trained, or quantised at any bitwidth.

    \b
    Examples:
      zoo list 'digits-*'
      zoo show resnet34-2bit
      zoo pull digits-resnet14-2bit
      zoo eval digits-resnet14-2bit
    """
    ctx.obj = overlays


for module in (looking, fetching, making, deploying, publishing, cache):
    for command in module.COMMANDS:
        main.add_command(command)


if __name__ == "__main__":
    main()
