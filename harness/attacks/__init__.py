"""Attacks as values: one loop, frozen parts, presets with published settings.

`get("cim")` returns an attack; calling it returns adversarial images. A part registers itself by `@part` and a preset by
`@preset`, wherever in this folder they are written: every module here is imported, and every part's class is exported, so
that the repr of any composed attack evaluates to that attack. It may import torch, and of the zoo its error class
alone. Begin with `attack`, the loop; `parts` says what it hands to which part.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Any

from harness.attacks.attack import Attack
from harness.attacks.model import Model, as_model, tap
from harness.attacks.parts import PARTS, Batch, Category, Cost, Objective, Step, describe, part
from harness.attacks.plugins import Foreign
from harness.attacks.pool import Images, Pool
from harness.attacks.registry import AttackLike, Preset, get, info, names, preset
from harness.attacks.rng import Rng

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

_EXPORTED = {kind.__name__: kind for kinds in PARTS.values() for kind in kinds.values()}
globals().update(_EXPORTED)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Parts are exported as they register; import one from its module to have its type."""


__all__ = [
    "PARTS",
    "Attack",
    "AttackLike",
    "Batch",
    "Category",
    "Cost",
    "Foreign",
    "Images",
    "Model",
    "Objective",
    "Pool",
    "Preset",
    "Rng",
    "Step",
    "as_model",
    "describe",
    "get",
    "info",
    "names",
    "part",
    "preset",
    "tap",
]
__all__ += sorted(_EXPORTED)
