"""Attacks as values: one loop, frozen parts, presets with published settings.

`get("cim")` returns an attack; calling it returns adversarial images. Parts are exported so that the repr of any composed
attack evaluates to that attack. The folder may import torch and `zoo.errors` alone: no files, no YAML, no other stage. Begin
with `attack`, the loop; `presets` lists the published settings, `compose` reads an attack from a mapping.
"""

from __future__ import annotations

from harness.attacks import presets as _presets
from harness.attacks.attack import Attack
from harness.attacks.blocks import BlockShuffle, StructureInvariant
from harness.attacks.features import FeatureImportance, IntermediateLevel, NeuronAttribution, RandomPatch
from harness.attacks.filters import TranslationInvariant
from harness.attacks.gradients import AtPoint, EnhancedMomentum, PenalizedGradientNorm, Variance
from harness.attacks.losses import CrossEntropy, Logit
from harness.attacks.model import Model, as_model, tap
from harness.attacks.parts import Batch, Category, Cost, Objective, Step
from harness.attacks.plugins import Foreign
from harness.attacks.pool import Images, Pool
from harness.attacks.registry import AttackLike, Preset, get, info, names
from harness.attacks.rng import Rng
from harness.attacks.skip import SkipGradient
from harness.attacks.spectrum import Spectrum
from harness.attacks.transforms import Admix, DiverseInput, ScaleInvariant

__all__ = [
    "Admix",
    "AtPoint",
    "Attack",
    "AttackLike",
    "Batch",
    "BlockShuffle",
    "Category",
    "Cost",
    "CrossEntropy",
    "DiverseInput",
    "EnhancedMomentum",
    "FeatureImportance",
    "Foreign",
    "Images",
    "IntermediateLevel",
    "Logit",
    "Model",
    "NeuronAttribution",
    "Objective",
    "PenalizedGradientNorm",
    "Pool",
    "Preset",
    "RandomPatch",
    "Rng",
    "ScaleInvariant",
    "SkipGradient",
    "Spectrum",
    "Step",
    "StructureInvariant",
    "TranslationInvariant",
    "Variance",
    "as_model",
    "get",
    "info",
    "names",
    "tap",
]

del _presets
