"""Losses on the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.model import Model
from harness.attacks.parts import Batch, Cost, Objective, part


def _aim(batch: Batch) -> tuple[Tensor, float]:
    """Return the labels that the loss looks at and its sign: away from the true label, or towards the target."""
    return (batch.y, 1.0) if batch.target is None else (batch.target, -1.0)


@part("loss", "cross-entropy")
@dataclass(frozen=True)
class CrossEntropy:
    """L = -log softmax(f(z))_y, or its negative at the target label. Untargeted attacks climb it (Goodfellow et al. 2015)."""

    def prepare(self, batch: Batch) -> Objective:
        """Return the loss; nothing to prepare."""
        labels, sign = _aim(batch)

        def objective(model: Model, z: Tensor, rows: Tensor) -> Tensor:
            return sign * F.cross_entropy(model(z), labels[rows], reduction="none")

        return objective

    def cost(self, steps: int) -> Cost:
        """Return no passes."""
        return Cost(0, 0)


@part("loss", "logit")
@dataclass(frozen=True)
class Logit:
    """L = -f(z)_y, or f(z)_target when targeted: its gradient does not vanish as the confidence grows.

    Zhao et al., "On Success and Simplicity: A Second Look at Transferable Targeted Attacks", NeurIPS 2021, Eq. 6.
    """

    def prepare(self, batch: Batch) -> Objective:
        """Return the loss; nothing to prepare."""
        labels, sign = _aim(batch)

        def objective(model: Model, z: Tensor, rows: Tensor) -> Tensor:
            return -sign * model(z).gather(1, labels[rows][:, None])[:, 0]

        return objective

    def cost(self, steps: int) -> Cost:
        """Return no passes."""
        return Cost(0, 0)


def logit_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over images of the logit of each one's label."""
    return torch.gather(logits, 1, labels[:, None]).sum()
