"""What is made: an entry's weights by its recipe. `build` follows it, `build_order` says what comes first.

The only folder that puts a model into training mode; it may import every folder of the zoo but `commands`. Begin with
`making` (several entries in order), then `make` (one entry); `plan` completes a recipe, `train` is the loop, `adversarial`,
`lgv` and `ptq` its kinds. `exporting` writes another entry's network for an engine and trains nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.recipes.order import build_order, needs

if TYPE_CHECKING:
    from zoo.recipes.exporting import export, start_of
    from zoo.recipes.make import build
    from zoo.recipes.report import BuildReport

__all__ = ["BuildReport", "build", "build_order", "export", "needs", "start_of"]

_PLACES = {"BuildReport": "report", "build": "make", "export": "exporting", "start_of": "exporting"}


def __getattr__(name: str) -> object:
    """Import torch only when something is built: planning a build needs none of it."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f"zoo.recipes.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
