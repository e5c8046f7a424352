"""SVRE and CWA: inner steps over the members, whose outcome is the gradient of the outer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.model import members
from harness.attacks.parts import Step, part, per_image_mean_abs, require
from harness.attacks.registry import preset


@part("gradient", "svre")
@dataclass(frozen=True)
class VarianceReduced:
    """`rounds` * K inner steps from z = x_t: G = decay * G + h / mean|h|, z = project(z + alpha * sign(G)); g is the last G.

    h = grad L_k(z) - (grad L_k(x_t) - grad L(x_t)), L the loss of the ensemble, L_k that of a member drawn anew for each
    step. Xiong et al., "Stochastic Variance Reduced Ensemble Adversarial Attack for Boosting the Adversarial Transferability",
    CVPR 2022, Alg. 2 (4 K inner steps, inner step alpha, inner decay 1). Members are drawn by the seed alone, alike for
    all images.
    """

    rounds: int = 4
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.rounds >= 1, "rounds of svre is at least 1", self.rounds)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        batch = step.batch
        each = members(batch.model)
        whole = step.gradient(step.point)
        draws = batch.rng.shared(f"svre {batch.run.t}").uniform((self.rounds * len(each),))[0].tolist()
        z, g = step.point, torch.zeros_like(step.point)
        for u in draws:
            member = each[int(u * len(each))]
            h = step.gradient(z, model=member) - step.gradient(step.point, model=member) + whole
            g = self.decay * g + h / per_image_mean_abs(h)
            z = torch.clamp(z + step.alpha * g.sign(), step.low, step.high)
        return g

    def evaluations(self) -> int:
        """Return passes of the whole ensemble: one, and two for each round over its members."""
        return 1 + 2 * self.rounds


@part("gradient", "cwa")
@dataclass(frozen=True)
class CommonWeakness:
    """From z = x_t - reverse * eps * sign(grad L) one inner step along each member's gradient; g = z_K - x_t.

    G = decay * G + grad L_k(z) / ||.||_2, z = project(z + push * sqrt(C*H*W) * G); G runs on from iteration to iteration.
    Chen et al., "Rethinking Model Ensemble in Transfer-based Adversarial Attacks", ICLR 2024, Alg. 2 (MI-CWA; reverse 1/15,
    inner step 250 on 3 x 224 x 224, that is `push` 0.64 per value, decay 1). The order is that of the members.
    """

    reverse: float = 1 / 15
    push: float = 250 / math.sqrt(3 * 224 * 224)
    decay: float = 1.0

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        batch, memory = step.batch, step.batch.run.memory
        z = step.point - self.reverse * batch.eps * step.gradient(step.point).sign()
        z = torch.clamp(z, step.low, step.high)
        g: Tensor = memory.get("cwa", torch.zeros_like(z))
        for member in members(batch.model):
            h = step.gradient(z, model=member)
            norm = h.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(torch.finfo(h.dtype).tiny)
            g = self.decay * g + h / norm
            z = torch.clamp(z + self.push * math.sqrt(z[0].numel()) * g, step.low, step.high)
        memory["cwa"] = g
        return z - step.point

    def evaluations(self) -> int:
        """Return passes of the whole ensemble: one, and one over its members."""
        return 2


@preset("svre", category="ensemble", source="Xiong et al., CVPR 2022, Alg. 2 (SVRE-MI-FGSM)")
def svre() -> Attack:
    """Decay 1.0, 4 inner rounds. For ensembles by logits; from the clean image, where public code starts at random."""
    return Attack(gradient=VarianceReduced(), decay=1.0)


@preset("cwa", category="ensemble", source="Chen et al., ICLR 2024, Alg. 2 (MI-CWA)")
def cwa() -> Attack:
    """Decay 1.0, steps of 2 eps / 10. For ensembles by logits; from the clean image, where public code starts at random."""
    return Attack(gradient=CommonWeakness(), decay=1.0, step_size=0.2)
