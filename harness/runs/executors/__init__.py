"""Where the tasks of a run are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeVar

from zoo.errors import UserError

Kind = Literal["local", "ray"]
T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs tasks; the process that asks is the one that writes, whatever is done elsewhere."""

    sees_cache: bool
    """Whether its workers read the cache folder of the process that asks."""

    def hardware(self, device: str) -> str:
        """Return what decides the last bits of arithmetic where tasks are done (`zoo.kernels.hardware`).

        Raises:
            UserError: the device cannot be used there.
        """

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[tuple[T, R | UserError]]:
        """Yield (task, result) in the order of completion; a task that ended in a UserError yields that.

        Raises:
            MachineError: the workers are lost.
        """


def open_executor(
    kind: Kind,
    device: str,
    workers: int | None = None,
    address: str | None = None,
    gpus: float | None = None,
    waiting: int | None = None,
) -> AbstractContextManager[Executor]:
    """Return an executor, to be entered for the length of a run.

    Args:
        kind: this machine, or a Ray cluster.
        device: where tasks compute; a CPU has as many workers as usable cores, a GPU one.
        workers: how many tasks run at a time.
        address: the cluster; one is started on this machine when None.
        gpus: GPUs, or a fraction of one, that each task on the cluster takes; one when the device is a GPU.
        waiting: tasks handed to each worker at a time; None suits the executor.

    Raises:
        UserError: a setting of Ray for the local executor, or Ray is not installed.
    """
    from harness.runs.executors.local import IN_FLIGHT, Local, default_workers

    if kind == "local":
        if address is not None or gpus is not None:
            raise UserError("an address and a share of GPUs are for a Ray cluster; add --executor ray")
        return Local(workers if workers is not None else default_workers(device), waiting or IN_FLIGHT)
    from harness.runs.executors import ray

    return ray.Ray(workers, address, gpus if gpus is not None else float(device != "cpu"), waiting or ray.IN_FLIGHT)
