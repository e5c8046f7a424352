"""Submitted code behind walls: no network, no files but a scratch folder, no targets, no environment, little of everything.

It may import `runs` and what lies below it; the part that runs inside the walls imports as little as it can. Begin with
`box`, which is handed a folder of code and hands back images; `backends` and `launch` build the walls, `server` and `worker`
are the two ends inside.
"""

from harness.sandbox.backends import CHOICES, Choice
from harness.sandbox.box import Crafted, Limits, Sandbox, SubmissionError, printable
from harness.sandbox.changes import Change

__all__ = ["CHOICES", "Change", "Choice", "Crafted", "Limits", "Sandbox", "SubmissionError", "printable"]
