"""What the stages of a run share: where they work, what does the work, whom they tell, and what was done so far."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.records.pinned import PinnedSuite
from harness.runs.executors import Executor
from harness.runs.workspace import Context
from zoo.errors import TaskError


@dataclass
class Report:
    """What a run did."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    reused: list[Path] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    """Models and jobs that could not take part, with the reason."""
    crashes: list[TaskError] = field(default_factory=list)
    """Exceptions of attacks and networks that cost their cells, each kind once."""

    def crash(self, error: TaskError) -> None:
        """Keep an exception, and write its traceback where logs go (stderr by default), unless the same one was met before."""
        if all(error.trace != known.trace for known in self.crashes):
            self.crashes.append(error)
            logging.getLogger("harness").error("%s", error.trace.rstrip() or error)


Notify = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

ROWS = "rows"
"""What is being done as a whole: rows made, kept or given up."""


@dataclass(frozen=True)
class Stage:
    """What every stage of a run is handed."""

    context: Context
    pinned: PinnedSuite
    executor: Executor
    notify: Notify
    report: Report
