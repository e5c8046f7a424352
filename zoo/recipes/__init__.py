"""How an entry's weights are made: `build` follows the recipe in the registry, `build_order` says what to build first."""

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
