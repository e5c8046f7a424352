"""Submitted code behind walls: no network, no files but a scratch folder, no targets, no environment, little of everything."""

from harness.sandbox.backends import CHOICES, Choice
from harness.sandbox.box import Crafted, Limits, Sandbox, SubmissionError, printable
from harness.sandbox.changes import Change

__all__ = ["CHOICES", "Change", "Choice", "Crafted", "Limits", "Sandbox", "SubmissionError", "printable"]
