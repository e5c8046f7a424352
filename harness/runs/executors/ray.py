"""Tasks on a Ray cluster: fractions of GPUs, retries, work moved off dead workers and nodes; nothing is written there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from harness.runs.executors.local import default_workers, guarded, single_thread, usable
from zoo.errors import MachineError, UserError

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 2
"""Tasks handed over at a time for each that the cluster can run."""
RETRIES = 5
"""Times that a task is started again after its worker or node died."""


class Ray:
    """Runs tasks on a Ray cluster, or on one that it starts on this machine; a context manager.

    Workers get everything but models and data sets with their task and hand their results back, so no file system need be
    shared. Each node has this package in the same version, and fetches models and images into a cache of its own; a node
    that would compute something else than the machine that asks refuses its tasks. Files of the user's own (registries and
    the weights they name) are looked for under the same path on each node.

    Args:
        workers: tasks that run at a time, at the most; None is as many as the cluster has room for.
        address: the cluster; None is that of $RAY_ADDRESS, or one on this machine for the length of the run.
        gpus: GPUs, or a fraction of one, that each task takes.
        in_flight: tasks handed over at a time, for each that can run; with a number of workers no more than these.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it has no room for one task.
    """

    sees_cache = False

    def __init__(
        self, workers: int | None = None, address: str | None = None, gpus: float = 0.0, in_flight: int = IN_FLIGHT
    ) -> None:
        self.workers = workers
        self.address = address or os.environ.get("RAY_ADDRESS")
        self.gpus = gpus
        self.in_flight = in_flight
        self._ahead = 1
        self._ray: Any = None
        self._started = False

    def __enter__(self) -> Ray:
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed; get it with: pip install 'qnn-transfer-zoo[cluster]'") from error
        self._ray = ray
        if not ray.is_initialized():
            self._connect()
            self._started = True
        self._ahead = self.workers or self._room() * self.in_flight
        if self.workers is not None:
            self._check_nodes()
        return self

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            options |= {"num_cpus": self.workers or default_workers("cpu"), "include_dashboard": False}
        try:
            self._ray.init(self.address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster at {self.address or 'this machine'} ({error}); check --address and that its head runs"
            ) from error

    def _room(self) -> int:
        """Return how many tasks the cluster's nodes can run at a time, as it is now."""
        self._check_nodes()
        kind, each = ("GPU", self.gpus) if self.gpus else ("CPU", 1.0)
        room = sum(int(has.get(kind, 0) / each) for has in self._nodes())
        if room < 1:
            wanted = f"{self.gpus:g} GPU" if self.gpus else "one CPU"
            raise UserError(
                f"the Ray cluster has no node with {wanted} for a task; add nodes, ask for less with --gpus, or say "
                "with --workers how many tasks may run where the cluster grows on demand"
            )
        return room

    def _nodes(self) -> list[dict[str, float]]:
        """Return what each living node has."""
        return [node.get("Resources", {}) for node in self._ray.nodes() if node["Alive"]]

    def _check_nodes(self) -> None:
        """Refuse a share of GPUs that no node has: such a task would wait for ever. Clusters may have no GPU yet."""
        most = max((has.get("GPU", 0.0) for has in self._nodes()), default=0.0)
        if 0 < most < self.gpus:
            raise UserError(f"no node of the Ray cluster has {self.gpus:g} GPUs, the largest {most:g}; ask for less with --gpus")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._started:
            self._ray.shutdown()

    def _remote(self, function: Callable[..., Any]) -> Any:
        """Make a task of a function; its process is kept for the next, with the models that it loaded, on a GPU too."""
        needs = {"num_cpus": 0 if self.gpus else 1, "num_gpus": self.gpus}
        return self._ray.remote(**needs, max_retries=RETRIES, max_calls=0)(function)

    def hardware(self, device: str) -> str:
        """Return what decides the last bits of a worker's arithmetic; all of them must have the same."""
        found: str | UserError = self._ray.get(self._remote(_run).remote(usable, device))
        if isinstance(found, UserError):
            raise found
        return found

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[tuple[T, R | UserError]]:
        """Yield (task, result) in the order of completion; a task that ended in a UserError yields that.

        Raises:
            MachineError: a task's workers died again and again, or the cluster is lost.
        """
        ray = self._ray
        remote = self._remote(_run)
        shared = ray.put(function)  # once: it may carry all images of a job
        queue = iter(tasks)
        pending: dict[Any, T] = {}
        try:
            while True:
                for task in islice(queue, self._ahead - len(pending)):
                    pending[remote.remote(shared, task)] = task
                if not pending:
                    return
                for reference in ray.wait(list(pending))[0]:
                    yield pending.pop(reference), ray.get(reference)
        except (ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            raise self._lost(error) from error
        except (ray.exceptions.OutOfMemoryError, ray.exceptions.ObjectLostError) as error:
            raise self._lost(error) from error
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _lost(self, error: Exception) -> MachineError:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        return MachineError(
            f"a task failed {RETRIES + 1} times as its workers died ({reason}); what was finished is kept: mend the cluster "
            f"and run the command again, with a smaller --workers if memory is short"
        )


def _run(function: Callable[[T], R], task: T) -> R | UserError:
    single_thread()
    return guarded(function, task)
