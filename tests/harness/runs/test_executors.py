"""The same rows wherever the work is done, and whatever dies on the way."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.records.rows import read_rows
from harness.runs import runner
from harness.runs.executors import local, open_executor
from harness.runs.executors.local import Local
from harness.suites.selection import Selection
from harness.suites.suite import Suite
from tests.harness.tiny import make, run
from zoo.errors import MachineError, UserError
from zoo.kernels import hardware

Tiny = tuple[Suite, Path]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return make(tmp_path / "models")


def canonical(folder: Path) -> dict[str, bytes]:
    rows = {row.filename: row.canonical() for row in read_rows(folder)}
    assert rows
    return rows


def signed(folder: Path, function: Callable[[Any], Any], task: Any) -> Any:
    """Do a task, leaving the id of the process that did it."""
    (folder / str(os.getpid())).touch()
    return function(task)


def signing(executor: Any, folder: Path) -> Any:
    """Make an executor's workers sign their work in a folder."""
    folder.mkdir()
    plain = executor.run
    executor.run = lambda function, tasks: plain(partial(signed, folder, function), tasks)
    return executor


class Shuffled(Local):
    """Does its tasks in another order."""

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        yield from super().run(function, sorted(tasks, key=lambda task: hash((17, str(task)))))


def test_shuffled_order_gives_the_same_rows(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, registry = tiny
    plain = run(suite, tmp_path / "plain", overlays=[registry], workers=1)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "fresh"))
    monkeypatch.setattr(runner, "open_executor", lambda *_: Shuffled(1))
    backwards = suite.model_copy(update={"attacks": suite.attacks[::-1], "substitutes": suite.substitutes[::-1]})
    other = run(backwards, tmp_path / "other", overlays=[registry])
    assert canonical(plain.folder) == canonical(other.folder)


def test_a_killed_worker_costs_nothing_but_time(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, registry = tiny
    whole = run(suite, tmp_path / "whole", overlays=[registry], workers=1)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "fresh"))
    pids, killed = tmp_path / "pids", []

    def kill(what: str, done: int, total: int) -> None:
        if what.startswith("crafting") and not killed:
            killed.append(int(next(pids.iterdir()).name))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(runner, "open_executor", lambda *_: signing(Local(2), pids))
    cut = run(suite, tmp_path / "cut", overlays=[registry], notify=kill)
    assert len(killed) == 1 and not cut.blocked and canonical(cut.folder) == canonical(whole.folder)
    assert len(list(pids.iterdir())) > 2, "other workers took over"


def _deadly(task: int) -> int:
    if task == 3:
        os._exit(9)
    return task


def test_a_task_that_kills_its_workers_ends_in_one_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "RETRIES", 1)
    with Local(2, in_flight=1) as executor, pytest.raises(MachineError, match="a task failed 2 times as worker processes died"):
        list(executor.run(_deadly, range(4)))


def test_blocks_are_handed_over_one_by_one_however_many_wait(tiny: Tiny, tmp_path: Path) -> None:
    suite, registry = tiny
    seen: list[int] = []

    def note(what: str, done: int, total: int) -> None:
        if what.startswith("crafting"):
            seen.append(done)

    only = Selection(attacks=("mim",), substitutes=("tiny-resnet",))
    run(suite, tmp_path / "out", only, overlays=[registry], workers=1, queue=25, notify=note)
    assert seen == [1, 2, 3, 4, 5], "a kill loses no block that was finished"
    with open_executor("local", "cpu", workers=2, waiting=7) as executor:
        assert isinstance(executor, Local) and executor.in_flight == 7


def test_settings_of_ray_need_ray(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--executor ray"):
        open_executor("local", "cpu", address="auto")


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match="pip install"), open_executor("ray", "cpu"):
        pass


@pytest.mark.ray
def test_ray_gives_the_same_rows_when_one_of_two_workers_is_killed_and_shares_no_cache(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from harness.runs.executors.ray import Ray

    suite, registry = tiny
    local = run(suite, tmp_path / "local", overlays=[registry], workers=1)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "node"))
    pids, killed = tmp_path / "pids", []

    def kill(what: str, done: int, total: int) -> None:
        alive = [int(path.name) for path in pids.iterdir()]
        if what.startswith("crafting") and len(alive) >= 2 and not killed:
            os.kill(alive[0], signal.SIGKILL)
            killed.append(alive[0])

    with signing(Ray(2), pids) as cluster:
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "driver"))  # the workers keep the other one
        monkeypatch.setattr(runner, "open_executor", lambda *_: cluster)
        monkeypatch.setattr(Ray, "__exit__", lambda *_: None)
        spread = run(suite, tmp_path / "spread", overlays=[registry], notify=kill)
        monkeypatch.undo()
    assert killed and canonical(spread.folder) == canonical(local.folder)
    assert not list((tmp_path / "node").rglob("*.safetensors")) and list((tmp_path / "driver").rglob("*.safetensors"))


def _pid(task: int) -> tuple[int, float]:
    began = time.time()
    time.sleep(0.3)
    return os.getpid(), began


@pytest.mark.ray
def test_a_cluster_with_gpus_keeps_its_processes_and_its_number_of_workers() -> None:
    """Ray starts a process for each task on a GPU unless told otherwise; the GPUs here are Ray's word only."""
    ray = pytest.importorskip("ray")
    from harness.runs.executors.ray import Ray

    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with Ray(None, gpus=1.0) as cluster:
            assert cluster.hardware("cpu") == hardware("cpu")
            done = [result for _, result in cluster.run(_pid, range(12))]
        assert len({pid for pid, _ in done}) <= 3
        with pytest.raises(UserError, match="device 'cuda:9' cannot be used"), Ray(None, gpus=1.0) as cluster:
            cluster.hardware("cuda:9")
        with Ray(1, gpus=0.5) as cluster:
            begun = sorted(began for _, (_, began) in cluster.run(_pid, range(4)))
        assert min(b - a for a, b in itertools.pairwise(begun)) >= 0.3, "one after another"
        with pytest.raises(UserError, match="no node of the Ray cluster has 3 GPUs, the largest 2"), Ray(None, gpus=3.0):
            pass
    finally:
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_moves_the_work_of_a_dead_node_to_another(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    suite, registry = tiny
    local = run(suite, tmp_path / "local", overlays=[registry], workers=1)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "fresh"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    cluster.wait_for_nodes()

    def pull_the_plug(what: str, done: int, total: int) -> None:
        if what.startswith("crafting") and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.clear()

    try:
        spread = run(
            suite, tmp_path / "spread", overlays=[registry], executor="ray", address=cluster.address, notify=pull_the_plug
        )
    finally:
        cluster.shutdown()
    assert not nodes and canonical(spread.folder) == canonical(local.folder)
