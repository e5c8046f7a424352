"""What a notebook does with the harness: suites, runs and boards in Python; heavy imports wait for the first call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.board import Board
    from harness.runs.evaluation import Evaluation
    from harness.runs.executors import Kind
    from harness.runs.stage import Notify, Report
    from harness.runs.unfinished import Request
    from harness.suites.suite import Suite
    from zoo.kernels import Precision

Asked = str | Mapping[str, Any] | Callable[..., object]
"""An attack as a caller of `run` may give it."""


def load_suite(name: str | Path) -> Suite:
    """Return a suite by its name, or from a YAML file: one of your own, or the suite.yaml of a leaderboard folder.

    Raises:
        UserError: no such suite or file, or the file is malformed.
    """
    from harness.suites.suite import load

    return load(str(name))


def load_board(
    suite: str | Path,
    *,
    version: int | None = None,
    limit: int | None = None,
    out: str | Path = "leaderboards",
    mixed: bool = False,
) -> Board:
    """Return the board of a suite from its rows, without running anything.

    Args:
        suite: name of the suite, its file, or the path of a leaderboard folder.
        version: a version of the suite; None is the newest that has rows.
        limit: the board of a trial on so many images.
        out: folder of the leaderboards.
        mixed: rank and compare tiers of evidence together.

    Raises:
        UserError: there is no such board, or a file of it is damaged.
    """
    from harness.board import load
    from harness.records.pinned import board_folder

    return load(board_folder(Path(out), str(suite), version, limit), mixed=mixed)


def run(
    suite: str | Path | Suite,
    *,
    attacks: Sequence[Asked] | Mapping[str, Asked] = (),
    substitutes: Sequence[str] = (),
    targets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    limit: int | None = None,
    device: str = "cpu",
    out: str | Path = "leaderboards",
    overlays: Sequence[str | Path] = (),
    workers: int | None = None,
    queue: int | None = None,
    executor: Kind = "local",
    address: str | None = None,
    gpus: float | None = None,
    precision: Precision = "exact",
    compiled: bool = False,
    fail_fast: bool = False,
    progress: bool = True,
    notify: Callable[[str, int, int], None] | None = None,
) -> Board:
    """Craft, check and score a suite, write its rows and board below `out`, and return the board.

    What is done already is kept; a run that was stopped goes on when it is asked for again.

    Args:
        suite: name of a suite, its file, or a suite in memory.
        attacks: only these attacks; () is all of the suite, and so for substitutes, targets and seeds. Beside names, and files
            as path/to/attack.py:MyAttack, there may be mappings of parts with a name, attacks such as
            get("mim").but(decay=0.5), and classes, instances and functions that a file of yours defines. A mapping of names to
            such attacks names them.
        substitutes: only these substitutes.
        targets: only these targets.
        seeds: these seeds instead of the suite's.
        limit: only the first images; such a run has a folder of its own.
        device: where to compute, such as cuda:0.
        out: folder of the leaderboards.
        overlays: registry files of your own.
        workers: tasks that run at a time; None suits the device. Worker processes import your main module, so in a script
            the call belongs under `if __name__ == "__main__":`.
        queue: images that wait at a worker, in whole blocks; never changes a result.
        executor: this machine, or a Ray cluster.
        address: the cluster's; one is started on this machine when None.
        gpus: GPUs, or a fraction of one, that each task on the cluster takes.
        precision: "tf32" or "bf16" are faster and make other images; rows go to a folder of their own, with a report of parity.
        compiled: compile networks; likewise in a folder of its own.
        fail_fast: end with the first cell that fails; by default it is recorded as missing, and its traceback logged.
        progress: show bars, on a terminal and in a notebook, unless `notify` is given.
        notify: called with what is being done, how much of it is done, and how much there is.

    Raises:
        UserError: unknown names, an unusable device or folder, or nothing could run at all.
    """
    from harness.runs.asked import written
    from harness.runs.unfinished import Request

    chosen, source = (load_suite(suite), str(suite)) if isinstance(suite, str | Path) else (suite, "")
    request = Request(
        suite=source,
        attacks=written(attacks),
        substitutes=tuple(substitutes),
        targets=tuple(targets),
        seeds=tuple(seeds),
        limit=limit,
        device=device,
        overlays=tuple(str(path) for path in overlays),
        workers=workers,
        queue=queue,
        executor=executor,
        address=address,
        gpus=gpus,
        precision=precision,
        compiled=compiled,
        fail_fast=fail_fast,
    )
    with _told(progress, notify) as tell:
        return perform(chosen, request, Path(out), tell)[1]


def evaluate(
    target: nn.Module | str,
    images: Tensor,
    labels: Tensor,
    *,
    attack: str | Mapping[str, object] | Callable[..., object] = "mim",
    substitute: Any = None,
    eps: float = 8 / 255,
    steps: int = 10,
    seed: int = 0,
    device: str = "cpu",
    block: int = 16,
    progress: bool = True,
) -> Evaluation:
    """Attack images and say how a network takes them: clean and robust accuracy, ASR, each with its 95 % interval.

    It is what the harness does for one cell: the attack sees the substitute alone, draws by image, and its images are rounded
    to bytes and checked against the ball before the target answers.

    Args:
        target: a network in evaluation mode from [0, 1] pixels (N, C, H, W) to logits, or the name of one of the zoo.
        images: (N, C, H, W), uint8, or floats in [0, 1] that are rounded to bytes.
        labels: (N,) true classes.
        attack: a preset's name, a mapping of parts, path/to/attack.py:MyAttack, torchattacks:NAME, an attack, or a class,
            instance or function of your own.
        substitute: what the attack sees: None is the target itself (white-box), otherwise a network, the name of one of the
            zoo, with its alternation, or one of `harness.substitutes`.
        eps: radius of the ball in [0, 1] pixel units, whole steps of 1/255.
        steps: iterations, unless the attack fixes its own.
        seed: of what the attack draws.
        device: where to compute, such as cuda:0; networks are moved there.
        block: images that are attacked together.
        progress: show a bar, on a terminal and in a notebook.

    Raises:
        UserError: images, labels, eps, a name or the device are not as said, or the attack fails.
    """
    from harness.runs import evaluation

    told = {"attack": attack, "substitute": substitute, "eps": eps, "steps": steps, "seed": seed, "device": device}
    with _told(progress, None) as tell:
        return evaluation.evaluate(target, images, labels, **told, block=block, notify=tell)


def _told(progress: bool, notify: Notify | None) -> AbstractContextManager[Notify | None]:
    """Return what a run tells of its progress to: the caller, else bars."""
    if notify is not None or not progress:
        return nullcontext(notify)
    from harness.runs.progress import Progress

    return Progress()


def perform(
    suite: Suite, request: Request, out: Path, notify: Callable[[str, int, int], None] | None = None
) -> tuple[Report, Board]:
    """Run a suite as a request asks, write its board, and return what was done and the board."""
    from harness.board import load, write_files
    from harness.runs import runner

    report = runner.run(suite, request, out, notify)
    board = load(report.folder)
    write_files(board, report.folder)
    return report, board
