"""Submitted code behind walls: no network, no files but a scratch folder, no targets, no environment, little of everything."""

from harness.sandbox.backends import CHOICES, Choice
from harness.sandbox.box import Crafted, Limits, Sandbox, SubmissionError, printable

__all__ = ["CHOICES", "Choice", "Crafted", "Limits", "Sandbox", "SubmissionError", "printable"]
