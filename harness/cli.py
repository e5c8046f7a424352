"""The `harness` command."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands import analyses, bench, boards, pictures, runs, submissions, suites
from zoo.commands.terminal import Command, registry_option


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


for topic in (suites, runs, boards, pictures, analyses, bench, submissions):
    for command in topic.COMMANDS:
        main.add_command(command)
