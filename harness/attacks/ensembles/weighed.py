"""AdaEA and SMER: members weighed by what they add, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.attack import Attack
from harness.attacks.features import untargeted
from harness.attacks.model import Model, members
from harness.attacks.parts import Batch, Cost, Objective, Step, part, per_image_mean_abs, require
from harness.attacks.registry import preset


def _losses(batch: Batch, model: Model, z: Tensor) -> Tensor:
    """Return the cross-entropy of each image, (N,), without a graph."""
    model.begin_forward()
    with torch.no_grad():
        parts = [F.cross_entropy(model(z[rows]), batch.y[rows], reduction="none") for rows in batch.chunks()]
    return torch.cat(parts)


@part("gradient", "adaea")
@dataclass(frozen=True)
class AdaptiveEnsemble:
    """g = M * grad CE(sum_j w_j * logits_j): w by how well a member's image fools the others, M where members disagree.

    w = softmax_j(beta * sum_{i != j} CE_i(z_j) / CE_j(z_j)), z_j = project(x_t + alpha * sign(grad CE_j)); M is 1 where the
    mean cosine of the members' gradients, over the channels of a pixel and all pairs, is at least `threshold`, else 0. Chen
    et al., "An Adaptive Model Ensemble Adversarial Attack for Boosting Adversarial Transferability", ICCV 2023, Eqs. 4-8
    (beta 10, threshold -0.3). Weights are per image; the code has one set for its batch, and by a slip takes the pairs of one
    member only.
    """

    beta: float = 10.0
    threshold: float = -0.3

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        batch = step.batch
        untargeted(batch, "adaea")
        each = members(batch.model)
        grads = [step.gradient(step.point, model=member) for member in each]
        weights = self._weights(step, each, grads)

        def objective(_model: Model, z: Tensor, rows: Tensor) -> Tensor:
            logits = torch.stack([member(z) for member in each])
            return F.cross_entropy((weights[:, rows, None] * logits).sum(0), batch.y[rows], reduction="none")

        return step.gradient(step.point, objective=objective) * self._agreement(grads)

    def _weights(self, step: Step, each: tuple[Model, ...], grads: list[Tensor]) -> Tensor:
        """Return w, (K, N)."""
        images = [torch.clamp(step.point + step.alpha * g.sign(), step.low, step.high) for g in grads]
        losses = torch.stack([torch.stack([_losses(step.batch, m, z) for m in each]) for z in images])
        own = losses.diagonal().T  # CE_j(z_j)
        ratio = losses.sum(1) - own
        return (self.beta * ratio / own.clamp_min(torch.finfo(own.dtype).tiny)).softmax(0)

    def _agreement(self, grads: list[Tensor]) -> Tensor:
        """Return M, (N, 1, H, W)."""
        if len(grads) == 1:
            return torch.ones_like(grads[0][:, :1])
        pairs = [(a, b) for i, a in enumerate(grads) for b in grads[i + 1 :]]
        cosine = torch.stack([torch.cosine_similarity(a, b, dim=1) for a, b in pairs]).mean(0)
        return (cosine >= self.threshold).to(grads[0])[:, None]

    def evaluations(self) -> int:
        """Return passes of the whole ensemble with gradients: the members', and the weighed one."""
        return 2

    def cost(self, steps: int) -> Cost:
        """Return the passes; an ensemble of K makes K forward passes more in each step than are counted here for K = 1."""
        return Cost(3 * steps, 2 * steps)


@part("gradient", "smer")
@dataclass(frozen=True)
class StochasticMiniBatch:
    """`rounds` inner rounds over the members in random order, each weighed by w_k; g is the last inner momentum G.

    In each inner step h = grad CE(w_k * logits_k(z)), G = G + h / mean|h|, z = project(z + alpha * sign(G)); then w takes a step
    of `rate` down -log CE(mean_j w_j * logits_j(z)) with weight decay `shrink`, z before its move. w is 1 at first. Tang et
    al., "Ensemble Diversity Facilitates Adversarial Transferability", CVPR 2024, Alg. 1 (SMER; 4 rounds, rate 0.02, shrink
    0.002). Weights are per image and start anew with each, where the code carries one set on; orders are drawn by the seed
    alone.
    """

    rounds: int = 4
    rate: float = 0.02
    shrink: float = 0.002

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.rounds >= 1, "rounds of smer is at least 1", self.rounds)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        batch, memory = step.batch, step.batch.run.memory
        untargeted(batch, "smer")
        each = members(batch.model)
        w: Tensor = memory.get("smer", torch.ones(len(step.point), len(each)).to(step.point))
        draws = batch.rng.shared(f"smer {batch.run.t}").uniform((self.rounds, len(each)))[0]
        z, g = step.point, torch.zeros_like(step.point)
        for k in draws.argsort(dim=1, stable=True).flatten().tolist():
            h = step.gradient(z, model=each[k], objective=self._weighed(batch, w[:, k]))
            g = g + h / per_image_mean_abs(h)
            w = self._learn(batch, each, z, w)
            z = torch.clamp(z + step.alpha * g.sign(), step.low, step.high)
        memory["smer"] = w
        return g

    def _weighed(self, batch: Batch, w: Tensor) -> Objective:
        def objective(model: Model, z: Tensor, rows: Tensor) -> Tensor:
            return F.cross_entropy(w[rows, None] * model(z), batch.y[rows], reduction="none")

        return objective

    def _learn(self, batch: Batch, each: tuple[Model, ...], z: Tensor, w: Tensor) -> Tensor:
        """Return the weights after one step, (N, K)."""
        logits = []
        for member in each:
            member.begin_forward()
            with torch.no_grad():
                logits.append(torch.cat([member(z[rows]) for rows in batch.chunks()]))
        with torch.enable_grad():
            free = w.detach().requires_grad_()
            mixed = (free.T[:, :, None] * torch.stack(logits)).mean(0)
            loss = -F.cross_entropy(mixed, batch.y, reduction="none").clamp_min(1e-12).log().sum()
            slope = torch.autograd.grad(loss, free)[0]
        return w - self.rate * (slope + self.shrink * w)

    def evaluations(self) -> int:
        """Return passes of the whole ensemble with gradients: one for each round."""
        return self.rounds

    def cost(self, steps: int) -> Cost:
        """Return the passes; an ensemble of K makes K times as many forward passes for its weights as counted here."""
        return Cost(2 * self.rounds * steps, self.rounds * steps)


@preset("adaea", category="ensemble", source="Chen et al., ICCV 2023, Alg. 1")
def adaea() -> Attack:
    """Decay 1.0, beta 10, threshold -0.3. From the clean image, where public code adds noise of 0.001."""
    return Attack(gradient=AdaptiveEnsemble(), decay=1.0)


@preset("smer", category="ensemble", source="Tang et al., CVPR 2024, Alg. 1")
def smer() -> Attack:
    """Decay 1.0, 4 inner rounds. From the clean image, where public code starts at random."""
    return Attack(gradient=StochasticMiniBatch(), decay=1.0)
