"""What is made: an entry's weights by its recipe. `build` follows it, `build_order` says what comes first.

The only folder that puts a model into training mode; it may import every folder of the zoo but `commands`. Begin with
`making` (several entries in order), then `make` (one entry); `plan` completes a recipe, `train` is the loop, `adversarial`,
`lgv` and `ptq` its kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.recipes.order import build_order, needs

if TYPE_CHECKING:
    from zoo.recipes.make import build
    from zoo.recipes.report import BuildReport

__all__ = ["BuildReport", "build", "build_order", "needs"]


def __getattr__(name: str) -> object:
    """Import torch only when something is built: planning a build needs none of it."""
    if name in ("BuildReport", "build"):
        from importlib import import_module

        return getattr(import_module("zoo.recipes.make" if name == "build" else "zoo.recipes.report"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
