"""Attacks as values: one loop, frozen parts, presets with published settings."""

from __future__ import annotations

from harness.attacks import presets as _presets
from harness.attacks.attack import Attack
from harness.attacks.gradients import AtPoint, EnhancedMomentum, PenalizedGradientNorm, Variance
from harness.attacks.losses import CrossEntropy, Logit
from harness.attacks.model import Model, as_model, tap
from harness.attacks.parts import Batch, Category, Cost, Objective
from harness.attacks.pool import Images, Pool
from harness.attacks.registry import AttackLike, Preset, get, info, names
from harness.attacks.rng import Rng
from harness.attacks.skip import SkipGradient

__all__ = [
    "AtPoint",
    "Attack",
    "AttackLike",
    "Batch",
    "Category",
    "Cost",
    "CrossEntropy",
    "EnhancedMomentum",
    "Images",
    "Logit",
    "Model",
    "Objective",
    "PenalizedGradientNorm",
    "Pool",
    "Preset",
    "Rng",
    "SkipGradient",
    "Variance",
    "as_model",
    "get",
    "info",
    "names",
    "tap",
]

del _presets
