"""Tasks done by another executor, with an eye on those whose code fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from harness.runs.executors import Executor
from zoo.errors import MachineError, TaskError, UserError

T = TypeVar("T")
R = TypeVar("R")


class Watched:
    """Runs tasks on another executor, and tells of exceptions that are no UserErrors: bugs of an attack or a network.

    Args:
        executor: what does the work.
        crashed: called with each such exception.
        fail_fast: end the whole run with the first task that ends in an exception.
    """

    def __init__(self, executor: Executor, crashed: Callable[[TaskError], None], fail_fast: bool = False) -> None:
        self.executor = executor
        self.sees_cache = executor.sees_cache
        self.crashed = crashed
        self.fail_fast = fail_fast

    def hardware(self, device: str) -> str:
        """Return what decides the last bits of arithmetic where the other executor works."""
        return self.executor.hardware(device)

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[tuple[T, R | UserError]]:
        """Yield (task, result) in the order of completion; a task that ended in an exception yields that as a UserError.

        Raises:
            MachineError: the workers are lost, or a task failed where that is to end the run.
        """
        for task, result in self.executor.run(function, tasks):
            if isinstance(result, TaskError):
                self.crashed(result)
            if self.fail_fast and isinstance(result, UserError):
                raise MachineError(f"{result} (the run ends with its first failure, as --fail-fast asks; what is finished stays)")
            yield task, result
