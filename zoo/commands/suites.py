"""The models of a suite, from whichever installed package knows suites: the zoo itself knows none."""

from __future__ import annotations

from importlib.metadata import entry_points

from zoo.errors import UserError

GROUP = "zoo.suites"
"""Entry points of this group are functions from a suite's name or file to the names of its models."""


def models_of(suite: str) -> list[str]:
    """Return the names of a suite's models, its substitutes and its targets.

    Raises:
        UserError: there is no such suite, or no installed package knows suites.
    """
    readers = entry_points(group=GROUP)
    if not readers:
        raise UserError(f"no installed package knows the suite {suite!r}; install the harness beside the zoo (pip install -e .)")
    models: list[str] = next(iter(readers)).load()(suite)
    return models
