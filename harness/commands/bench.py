"""The command that times attacks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.common import device_option
from zoo.commands.terminal import emit, json_option, open_registry

if TYPE_CHECKING:
    from zoo.kernels import Precision


@click.command("bench")
@click.option("--suite", "suite_name", default="digits-qnn", show_default=True, help="Whose images, steps and substitutes.")
@click.option("--substitute", "substitutes", multiple=True, help="A substitute of the suite; those of its first pair by default.")
@click.option("--attack", "attacks", multiple=True, help="An attack; mim, cim and ssa by default.")
@click.option("--reference", help="The model whose bare passes are the unit; that of the first substitute by default.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="How often everything is timed.")
@click.option("--all", "more", is_flag=True, help="Also torchattacks' attacks, scoring, loading and training steps.")
@click.option("--end-to-end", type=click.IntRange(min=1), help="Run all of the suite on N images, against its bare passes.")
@click.option("--history", type=click.Path(path_type=Path), help="File of earlier timings; bench.jsonl in the cache by default.")
@click.option("--compare", is_flag=True, help="Show what changed since the last timing on this hardware, and keep this one.")
@click.option("--precision", type=click.Choice(["exact", "tf32", "bf16"]), default="exact", show_default=True)
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
    more: bool,
    end_to_end: int | None,
    history: Path | None,
    compare: bool,
    precision: Precision,
    device: str,
    as_json: bool,
) -> None:
    """Time attacks on substitutes against bare forward and backward passes of one network, all in the same run.

    A ratio of 1 means that an attack costs its passes and nothing else; on a CPU the time of one thread is counted.

    \b
    Examples:
      harness bench
      harness bench --attack mim --attack ssa --substitute digits-vgg --substitute digits-vgg-2bit --json
      harness bench --all --rounds 5 --compare
      harness bench --end-to-end 100
    """
    from harness.runs.bench import ATTACKS, default_substitutes, speeds
    from harness.runs.bench_history import append, changes, entry, history_file, last
    from harness.runs.executors.local import single_thread
    from harness.runs.workspace import Context, workspace_of
    from harness.suites.suite import load
    from zoo._allocator import keep_freed_memory
    from zoo.devices import check_device

    open_registry(overlays)
    check_device(device)
    single_thread()
    suite = load(suite_name)
    keep_freed_memory()
    if end_to_end is not None:
        from harness.runs import bench_suite

        done = bench_suite.end_to_end(suite, end_to_end, device, tuple(str(p) for p in overlays))
        facts = {"name": suite.name, **asdict(done), "ratio": done.ratio}
        shown = {**facts, "seconds": f"{done.seconds:.1f}", "bare": f"{done.bare:.1f}", "ratio": f"{done.ratio:.2f}"}
        columns = {"name": "suite", "images": "images", "rows": "rows", "targets": "targets"}
        emit([facts if as_json else shown], as_json, {**columns, "seconds": "seconds", "bare": "bare passes", "ratio": "ratio"})
        return
    workspace = workspace_of(Context(suite, tuple(str(p) for p in overlays), device, precision=precision))
    chosen = list(substitutes) or default_substitutes(suite)
    found = speeds(workspace, chosen, list(attacks) or list(ATTACKS), reference, rounds, more)
    rows = [row.to_json() for row in found]
    path, new = history or history_file(), entry(workspace, found)
    old = last(path, new) if compare else None
    append(path, new)
    if as_json:
        emit(rows, True, {})
        return
    for row in rows:
        spread = f"{row['low']:.2f} to {row['high']:.2f}"
        row |= {"ms": f"{1000 * row['seconds']:.2f}", "bare_ms": f"{1000 * row['bare']:.2f}", "ratio": f"{row['ratio']:.2f}"}
        row["spread"] = spread
    columns = {"kind": "kind", "substitute": "model", "attack": "attack", "backwards": "passes"}
    columns |= {"ms": "ms per image", "bare_ms": "bare passes, ms", "ratio": "ratio", "spread": "spread"}
    if device != "cpu":
        columns |= {"launches": "launches a step", "peak_bytes": "peak bytes"}
    emit(rows, False, columns)
    click.echo(f"{new['hardware']}, {new['threads']} thread(s); kept in {path}", err=True)
    if compare and old is None:
        click.echo("no earlier timing of this suite on this hardware to compare with", err=True)
    elif old is not None:
        moved = [{**row, "then": f"{row['then']:.2f}", "now": f"{row['now']:.2f}"} for row in changes(old, new)]
        for row in moved:
            row["change"] = f"{row['change']:+.0%}"
        click.echo(f"since {old['created']}:")
        emit(moved, False, {"name": "what", "then": "then", "now": "now", "change": "change", "verdict": "beyond the spread"})


COMMANDS = (bench_command,)
