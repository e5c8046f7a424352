"""The one class of error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and how to fix it.

    The command line prints it as one paragraph and exits with status 2; anything else is a bug and keeps its traceback.
    """


class MachineError(UserError):
    """What is wrong is the machine, such as a full disk or a lost worker: it ends a whole run, where others end one cell."""


class TaskError(UserError):
    """An exception of code that is the user's own, such as an attack: it ends one cell, and keeps its traceback.

    The message is the exception's type and what it says, as a row records it.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message, trace)
        self.trace = trace

    def __str__(self) -> str:
        return str(self.args[0])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or the empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
