"""MEF: maximin expected flatness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.parts import Step, part, per_image_mean_abs, require
from harness.attacks.registry import preset


@part("gradient", "mef")
@dataclass(frozen=True)
class ExpectedFlatness:
    """g = mean_i g_i, g_i = grad L(x + r_i + xi * eps * p_i), then p_i = g_i / mean|g_i| - inner * p_i.

    r_i ~ U(-gamma * eps, gamma * eps). p_i, 0 at first, carries each sample's own gradients from iteration to iteration and
    stands for the step towards the worst point of its neighbourhood. Qiu et al., "Boosting Adversarial Transferability with
    Low-Cost Optimization via Maximin Expected Flatness", arXiv 2405.16181, as public code runs it (20 samples, gamma 2, xi
    0.15, inner decay 0.9).
    """

    samples: int = 20
    gamma: float = 2.0
    xi: float = 0.15
    inner: float = 0.9

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.samples >= 1, "samples of mef is at least 1", self.samples)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        memory, radius = step.batch.run.memory, self.gamma * step.batch.eps
        pushes = memory.setdefault("mef", [torch.zeros_like(step.point)] * self.samples)
        total = torch.zeros_like(step.point)
        for i in range(self.samples):
            noise = step.batch.rng.uniform(step.point.shape[1:], -radius, radius).to(step.point.dtype)
            g = step.gradient(step.point + noise + self.xi * step.batch.eps * pushes[i])
            pushes[i] = g / per_image_mean_abs(g) - self.inner * pushes[i]
            total += g
        return total / self.samples

    def evaluations(self) -> int:
        """Return the number of samples."""
        return self.samples


@preset("mef", category="gradient stabilisation", source="Qiu et al., arXiv 2405.16181, 2024, Alg. 1")
def mef() -> Attack:
    """Decay 0.5, 20 samples within 2 eps, 20 steps of eps / 10: 400 passes, whatever T the suite has."""
    return Attack(gradient=ExpectedFlatness(), decay=0.5, steps=20, step_size=0.1)
