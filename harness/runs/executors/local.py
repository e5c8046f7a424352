"""Tasks in this process, or in worker processes with one thread each."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait as wait_for
from types import TracebackType
from typing import TypeVar

from zoo._allocator import keep_freed_memory
from zoo.errors import MachineError, TaskError, UserError

RETRIES = 5
"""Times that a task is done again after its worker died."""

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 4
"""Tasks handed to each worker at a time, so that it never waits for the next and a stop loses little."""


class Local:
    """Runs tasks on this machine; a context manager, since its worker processes live as long as a run.

    With one worker tasks run in this process, one after the other. Each process uses one thread: two processes of two
    threads on two cores are many times slower, and the number of threads can change the last bits of a sum.
    """

    sees_cache = True

    def __init__(self, workers: int, in_flight: int = IN_FLIGHT) -> None:
        self.workers = workers
        self.in_flight = in_flight
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Local:
        single_thread()
        keep_freed_memory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            for process in processes:
                process.terminate()

    def hardware(self, device: str) -> str:
        """Return what decides the last bits of this machine's arithmetic."""
        return usable(device)

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[tuple[T, R | UserError]]:
        """Yield (task, result) in the order of completion; a task that ended in an exception yields that as a UserError.

        When a worker process dies the others end with it (as Python's pools do), and what they had in hand is done again by new
        ones.

        Raises:
            MachineError: workers died again and again without a task being done in between.
        """
        if self.workers <= 1:
            for task in tasks:
                yield task, guarded(function, task)
            return
        queue = iter(tasks)
        ready: deque[tuple[T, int]] = deque()
        pending: dict[Future[R | UserError], tuple[T, int]] = {}
        try:
            while True:
                try:
                    self._hand_over(function, queue, ready, pending)
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield pending.pop(future)[0], result
                except BrokenProcessPool as error:
                    self._pool = None
                    ready.extend((task, deaths + 1) for task, deaths in pending.values())
                    pending.clear()
                    if max((deaths for _, deaths in ready), default=0) > RETRIES:
                        raise MachineError(
                            f"a task failed {RETRIES + 1} times as worker processes died (killed, or out of memory); what was "
                            "finished is kept: run the command again, with a smaller --workers if memory is short"
                        ) from error
                    logging.getLogger("harness").warning("a worker process died; its tasks are done again")
        finally:
            for future in pending:
                future.cancel()

    def _hand_over(
        self,
        function: Callable[[T], R],
        queue: Iterator[T],
        ready: deque[tuple[T, int]],
        pending: dict[Future[R | UserError], tuple[T, int]],
    ) -> None:
        """Give workers as many tasks as they may have in hand; those that were given before come first."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        with _interrupts_held():
            while len(pending) < self.workers * self.in_flight:
                if not ready:
                    ready.extend((task, 0) for task in islice(queue, 1))
                if not ready:
                    return
                future = self._pool.submit(guarded, function, ready[0][0])
                pending[future] = ready.popleft()


def usable(device: str) -> str:
    """Return what decides the last bits of a device's arithmetic here.

    Raises:
        UserError: the device cannot be used.
    """
    from zoo.devices import check_device
    from zoo.kernels import hardware

    check_device(device)
    return hardware(device)


def single_thread() -> None:
    """Make torch use one thread in this process."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def default_workers(device: str) -> int:
    """Return how many processes suit a device: the usable cores on a CPU, one on a GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def guarded(function: Callable[[T], R], task: T) -> R | UserError:
    """Return what the function makes of a task, or the UserError that it ends in; any other exception becomes a TaskError."""
    try:
        return function(task)
    except UserError as error:
        return error
    except Exception as error:
        said = (str(error).strip() or "no message").split("\n")[0]
        found = TaskError(f"{type(error).__name__}: {said}{_advice(error)}", traceback.format_exc())
    _free_device_memory()  # after the exception is gone, and with it what its frames held
    return found


def _advice(error: Exception) -> str:
    """Return what helps against a lack of memory, when that is what ended a task; else nothing."""
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not short and not (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return ""
    return (
        "; memory is short: run with --workers 1, end other programs that use the device, take a smaller `block` in a suite of "
        "your own, or another --device"
    )


def _free_device_memory() -> None:
    """Hand back what torch keeps of a GPU's memory, so that the next task does not fail for this one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while workers start: they inherit that, so that it stays this process's to handle."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    single_thread()
    keep_freed_memory()


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
