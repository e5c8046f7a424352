"""GRA: gradient relevance, with a step that shrinks where the momentum turns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.parts import Step, part, require
from harness.attacks.registry import preset


@part("gradient", "gra")
@dataclass(frozen=True)
class GradientRelevance:
    """g = s * g_0 + (1 - s) * mean_i g_i, g_i = grad L(x + U(-beta*eps, beta*eps)), s the cosine of g_0 and that mean, per image.

    Zhu et al., "Boosting Adversarial Transferability via Gradient Relevance Attack", ICCV 2023, Sec. 3.2 (20 samples, beta
    3.5).
    """

    samples: int = 20
    beta: float = 3.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.samples >= 1, "samples of gra is at least 1", self.samples)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        radius = self.beta * step.batch.eps
        here = step.gradient(step.point)
        around = torch.zeros_like(here)
        for _ in range(self.samples):
            noise = step.batch.rng.uniform(here.shape[1:], -radius, radius).to(here.dtype)
            around += step.gradient(step.point + noise) / self.samples
        s = torch.cosine_similarity(here.flatten(1), around.flatten(1))[:, None, None, None]
        return s * here + (1 - s) * around

    def evaluations(self) -> int:
        """Return the samples and the point itself."""
        return self.samples + 1


@part("update", "shrinking")
@dataclass(frozen=True)
class ShrinkingStep:
    """x = x_t + alpha * M * sign(m); M is multiplied by eta wherever the sign of m has changed, and starts at 1 / eta.

    The sign before the first iteration is 0, so M is 1 in the first step. GRA (Zhu et al., ICCV 2023, Sec. 3.3; eta 0.94).
    """

    eta: float = 0.94

    def __call__(self, step: Step, m: Tensor, last: Tensor) -> Tensor:
        """Return the moved image."""
        memory = step.batch.run.memory
        size: Tensor = memory.get("shrinking", torch.full_like(m, 1 / self.eta))
        size = torch.where(m.sign() == last.sign(), size, size * self.eta)
        memory["shrinking"] = size
        return step.adv + step.alpha * size * m.sign()

    def slope(self, step: Step) -> Tensor | None:
        """Return None: the parameter is the image."""
        return None


@preset("gra", category="gradient stabilisation", source="Zhu et al., ICCV 2023, Alg. 1")
def gra() -> Attack:
    """Decay 1.0, 20 samples within 3.5 eps, steps that shrink by 0.94 where the momentum changes its sign."""
    return Attack(gradient=GradientRelevance(), update=ShrinkingStep(), decay=1.0)
