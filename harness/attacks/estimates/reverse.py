"""RAP: reverse adversarial perturbation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.parts import Cost, Step, part, require
from harness.attacks.registry import preset


@part("gradient", "rap")
@dataclass(frozen=True)
class ReversePerturbation:
    """g = grad L(x + n): n minimises L within a ball of `radius` eps, `inner` steps of `rate` eps from a random point.

    From iteration `start` * T on (RAP-LS: late start); before it n = 0. Qin et al., "Boosting the Transferability of
    Adversarial Attacks with Reverse Adversarial Perturbation", NeurIPS 2022, Eq. 3 (8 steps of 2/255 in a ball of 16/255,
    from iteration 100 of 400).
    """

    inner: int = 8
    radius: float = 1.0
    rate: float = 0.125
    start: float = 0.25

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.inner >= 1, "inner of rap is at least 1", self.inner)
        require(0 <= self.start <= 1, "start of rap is a share of the iterations", self.start)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        batch, point = step.batch, step.point
        if batch.run.t < self.start * batch.steps:
            return step.gradient(point)
        radius, rate = self.radius * batch.eps, self.rate * batch.eps
        n = batch.rng.uniform(point.shape[1:], -radius, radius).to(point.dtype)
        n = (point + n).clamp(0, 1) - point
        for _ in range(self.inner):
            n = torch.clamp(n - rate * step.gradient(point + n).sign(), -radius, radius)
            n = (point + n).clamp(0, 1) - point
        return step.gradient(point + n)

    def evaluations(self) -> int:
        """Return the gradients of an iteration after the start."""
        return self.inner + 1

    def cost(self, steps: int) -> Cost:
        """Return the passes of all iterations: one each before the start."""
        late = sum(t >= self.start * steps for t in range(steps))
        return Cost(steps + late * self.inner, steps + late * self.inner)


@preset("rap", category="gradient stabilisation", source="Qin et al., NeurIPS 2022, Alg. 1 (RAP-LS)")
def rap() -> Attack:
    """MIM with 400 steps of eps / 8 (2/255), the last 300 at the worst of 8 steps around the image: 2,800 passes."""
    return Attack(gradient=ReversePerturbation(), decay=1.0, steps=400, step_size=0.125)
