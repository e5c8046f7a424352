"""QDrop's settings, once: what a recipe may say of them and what the reconstruction takes; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReconstructionSettings:
    """How QDrop reconstructs a block; the defaults are the paper's (Wei et al., ICLR 2022, Sec. 5)."""

    iterations: int = 20_000
    """Steps for each block; a few hundred with rates of 0.02 and 0.0004 do for small nets."""
    rounding_lr: float = 1e-3
    step_lr: float = 4e-5
    regulariser: float = 0.01
    """Weight of the push towards whole codes; 0.1 for MobileNet-v2."""
    warmup: float = 0.2
    """Share of the steps before that push begins."""
    drop: float = 0.5
    """Probability with which an activation keeps its full-precision value."""
