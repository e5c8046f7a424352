"""Logit calibration for targeted attacks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from harness.attacks.attack import Attack
from harness.attacks.filters import TranslationInvariant
from harness.attacks.model import Model
from harness.attacks.parts import Batch, Cost, Objective, part
from harness.attacks.registry import preset
from harness.attacks.transforms import DiverseInput


@part("loss", "margin")
@dataclass(frozen=True)
class Margin:
    """Cross-entropy of the logits divided by the gap between the two largest, which is held fixed in the gradient.

    Weng et al., "Logit Margin Matters: Improving Transferable Targeted Adversarial Attack by Logit Calibration", TIFS 2023,
    Sec. IV (margin-based calibration).
    """

    def prepare(self, batch: Batch) -> Objective:
        """Return the loss; nothing to prepare."""
        labels, sign = (batch.y, 1.0) if batch.target is None else (batch.target, -1.0)

        def objective(model: Model, z: Tensor, rows: Tensor) -> Tensor:
            logits = model(z)
            top = logits.detach().topk(2).values
            gap = (top[:, :1] - top[:, 1:]).clamp_min(1e-12)
            return sign * F.cross_entropy(logits / gap, labels[rows], reduction="none")

        return objective

    def cost(self, steps: int) -> Cost:
        """Return no passes."""
        return Cost(0, 0)


@preset("logit-margin", category="gradient stabilisation", source="Weng et al., TIFS 2023, Sec. IV")
def logit_margin() -> Attack:
    """Towards a random other label, DI (0.7, up to 1.1, bilinear), TI (5 x 5), decay 1.0, 300 steps of eps / 8 (2/255).

    Public copies name 200 steps in their text and run 300.
    """
    return Attack(
        loss=Margin(),
        transforms=(DiverseInput(high=1.1, prob=0.7, interpolation="bilinear"),),
        filters=(TranslationInvariant(size=5),),
        decay=1.0,
        steps=300,
        step_size=0.125,
        target="random",
    )
