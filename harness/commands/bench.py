"""The command that times attacks."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.common import device_option
from zoo.commands.terminal import emit, json_option, open_registry


@click.command("bench")
@click.option("--suite", "suite_name", default="digits-qnn", show_default=True, help="Whose images, steps and substitutes.")
@click.option("--substitute", "substitutes", multiple=True, help="A substitute of the suite; those of its first pair by default.")
@click.option("--attack", "attacks", multiple=True, help="An attack; mim, cim and ssa by default.")
@click.option("--reference", help="The model whose bare passes are the unit; that of the first substitute by default.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="How often everything is timed.")
@device_option
@json_option
@click.pass_obj
def bench_command(
    overlays: tuple[Path, ...],
    /,
    suite_name: str,
    substitutes: tuple[str, ...],
    attacks: tuple[str, ...],
    reference: str | None,
    rounds: int,
    device: str,
    as_json: bool,
) -> None:
    """Time attacks on substitutes against bare forward and backward passes of one network, all in the same run.

    A ratio of 1 means that an attack costs its passes and nothing else; on a CPU the time of one thread is counted.

    \b
    Examples:
      harness bench
      harness bench --attack mim --attack ssa --substitute digits-vgg --substitute digits-vgg-2bit --json
    """
    from harness.runs.bench import ATTACKS, default_substitutes, speeds
    from harness.runs.executors.local import single_thread
    from harness.runs.workspace import Context, workspace_of
    from harness.suites.suite import load
    from zoo.devices import check_device

    open_registry(overlays)
    check_device(device)
    single_thread()
    suite = load(suite_name)
    context = Context(suite, tuple(str(p) for p in overlays), device)
    chosen = list(substitutes) or default_substitutes(suite)
    found = speeds(workspace_of(context), chosen, list(attacks) or list(ATTACKS), reference, rounds)
    rows = [row.to_json() for row in found]
    if as_json:
        emit(rows, True, {})
        return
    for row in rows:
        row |= {"ms": f"{1000 * row['seconds']:.2f}", "bare_ms": f"{1000 * row['bare']:.2f}", "ratio": f"{row['ratio']:.2f}"}
    columns = {"substitute": "substitute", "attack": "attack", "forwards": "forwards", "backwards": "backwards"}
    emit(rows, False, {**columns, "ms": "ms per image", "bare_ms": "bare passes, ms", "ratio": "ratio"})


COMMANDS = (bench_command,)
