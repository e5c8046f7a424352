"""BFA and P2FA: features weighed by images that the substitute's own gradient has pushed, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.attack import Attack
from harness.attacks.features import feature_gradient, features_of, joined, projection, unit, untargeted
from harness.attacks.model import Model
from harness.attacks.parts import Batch, Cost, Objective, Step, part, require
from harness.attacks.registry import preset

PUSH = 28 / math.sqrt(3 * 224 * 224)
"""The published push has an L2 norm of 28 on images of 3 x 224 x 224; per value this is a root mean square of 0.072."""


def fitted(batch: Batch, x: Tensor, count: int, push: float) -> Iterator[Tensor]:
    """Yield z_1 ... z_count, z_n = x + eta * h / ||h||_2, h = d CE / dz at z_{n-1}, z_0 = x; eta is push * sqrt(C*H*W)."""
    z, eta = x, push * math.sqrt(x[0].numel())
    for n in range(count):
        batch.model.begin_iteration(n)
        batch.model.begin_forward()
        gradients = []
        for rows in batch.chunks():
            with torch.enable_grad():
                leaf = z[rows].detach().requires_grad_()
                loss = F.cross_entropy(batch.model(leaf), batch.y[rows], reduction="sum")
            gradients.append(torch.autograd.grad(loss, leaf)[0])
        z = x + eta * unit(torch.cat(gradients).flatten(1)).reshape(x.shape)
        yield z


@part("loss", "bfa")
@dataclass(frozen=True)
class BlackBoxFeature:
    """FIA's loss with other images: each of `masks` is x pushed along the loss gradient at the one before it.

    L = -sum(W * f(z)), W the unit-norm sum of d logit_y / d f over those images. Wang et al., "Improving the transferability
    of adversarial examples through black-box feature attacks", Neurocomputing 2024, as the authors' code runs it (30 images,
    eta 28, that is `push` 0.072 per value).
    """

    masks: int = 30
    push: float = PUSH

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.masks >= 1, "masks of bfa is at least 1", self.masks)

    def prepare(self, batch: Batch) -> Objective:
        """Aggregate the gradients and return the loss."""
        untargeted(batch, "bfa")
        return projection(-unit(feature_gradient(batch, fitted(batch, batch.x, self.masks, self.push), "logit")))

    def cost(self, steps: int) -> Cost:
        """Return two passes for each image: its push and its weights."""
        return Cost(2 * self.masks, 2 * self.masks)


@part("gradient", "p2fa")
@dataclass(frozen=True)
class PixelToFeature:
    """g = -grad ||f(x_t) - F||^2: the features F are chosen anew every `inner` iterations, and fitted by the image in between.

    F = f(x) + reach * G / ||G||_2, G = decay * G - W, W as in BFA but at the current image. Liu et al., "Pixel2Feature
    Attack (P2FA): Rethinking the Perturbed Space to Enhance Adversarial Transferability", ICML 2025, Alg. 1, as public code
    runs it (30 images, 10 fits, reach 1e5). The loss of the attack is not used.
    """

    masks: int = 30
    inner: int = 10
    push: float = PUSH
    reach: float = 1e5
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.masks >= 1 and self.inner >= 1, "masks and inner of p2fa are at least 1", (self.masks, self.inner))

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        batch, memory = step.batch, step.batch.run.memory
        untargeted(batch, "p2fa")
        if batch.run.t % self.inner == 0:
            fresh = unit(feature_gradient(batch, fitted(batch, step.point, self.masks, self.push), "logit"))
            g = self.decay * memory["p2fa-g"] - fresh if "p2fa-g" in memory else -fresh
            batch.model.begin_iteration(batch.run.t)
            memory["p2fa-g"] = g
            memory["p2fa"] = features_of(batch, step.point) + self.reach * unit(g)
        wanted: Tensor = memory["p2fa"]

        def objective(model: Model, z: Tensor, rows: Tensor) -> Tensor:
            return -(joined(model.features(z)[1]) - wanted[rows]).square().sum(1)

        return step.gradient(step.point, objective=objective)

    def evaluations(self) -> int:
        """Return the gradients of an iteration that chooses features."""
        return 1 + 2 * self.masks

    def cost(self, steps: int) -> Cost:
        """Return a pass for each fit, and two for each image and one for f(x) at each choice."""
        choices = -(-steps // self.inner)
        return Cost(steps + choices * (2 * self.masks + 1), steps + choices * 2 * self.masks)


@preset("bfa", category="feature disruption", source="Wang et al., Neurocomputing 2024, Alg. 1")
def bfa() -> Attack:
    """MIM on features, weighed by 30 pushed images; the substitute names the layer."""
    return Attack(loss=BlackBoxFeature(), decay=1.0)


@preset("p2fa", category="feature disruption", source="Liu et al., ICML 2025, Alg. 1")
def p2fa() -> Attack:
    """10 choices of features with decay 1.0, 10 steps of eps / 10 without momentum towards each: 700 passes."""
    return Attack(gradient=PixelToFeature(), steps=100, step_size=0.1)
