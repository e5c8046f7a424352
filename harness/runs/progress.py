"""How far a run is, as bars on a terminal or in a notebook: one over all rows with the time that is left, one of the stage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from harness.runs.stage import ROWS, Notify


class Progress:
    """A context that gives what a run tells of its progress to.

    Args:
        say: called with a line for each stage that is done, where no bars can be shown; None is silence.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say
        self._shown = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._rows: Any = None
        self._stage: Any = None
        self._title = ""

    def __enter__(self) -> Notify:
        return self._update

    def __exit__(self, *_: object) -> None:
        for bar in (self._stage, self._rows):
            if bar is not None:
                bar.close()

    def _update(self, title: str, done: int, total: int) -> None:
        if not self._shown:
            if self._say is not None and done == total and title != ROWS:
                self._say(f"{title}: {total}")
            return
        if title == ROWS:
            if self._rows is None:
                self._close_stage()
                self._rows = _bar(total, title, 0)
            self._rows.update(done - self._rows.n)
            return
        if title != self._title:
            self._close_stage()
            self._stage, self._title = _bar(total, title, 0 if self._rows is None else 1), title
        self._stage.update(done - self._stage.n)

    def _close_stage(self) -> None:
        if self._stage is not None:
            self._stage.close()
        self._stage, self._title = None, ""


def _bar(total: int, title: str, position: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=title, position=position, leave=False, file=sys.stderr)
