"""Gradients of the loss over transformed copies, and the rules that combine them within one iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.attacks.model import Model, PlainModel
from harness.attacks.parts import Batch, Objective, Step, Transform, part, per_image_mean_abs, require

Loss = Callable[[Tensor, Tensor], Tensor]


class CopyGradient:
    """Mean over the copies z_k = T_m(...T_1(x)) of d loss(z_k) / dx, per image.

    Copies are made one by one and pass through the model in chunks of at most `batch.chunk` images, so memory is bounded
    by the chunk; the result does not depend on it, up to the rounding of float kernels. Only the gradient with respect to
    the input is ever computed. `once` says that the objective runs the network once, and that the network computes nothing but
    itself: such passes may be replayed.
    """

    def __init__(
        self, batch: Batch, objective: Objective, transforms: tuple[Transform, ...], once: bool = False
    ) -> None:
        self.batch = batch
        self.once = once
        self.objective = objective
        self.transforms = transforms
        self.copies = math.prod(transform.copies for transform in transforms)

    def __call__(
        self,
        x: Tensor,
        *,
        via: Callable[[Tensor], Tensor] | None = None,
        model: Model | None = None,
        objective: Objective | None = None,
    ) -> Tensor:
        """Return the gradient at x (N, C, H, W), of the loss at via(x), of one member of an ensemble, or of another loss."""
        x = x.detach().requires_grad_()
        total = torch.zeros_like(x)
        pending: list[Tensor] = []
        previous: tuple[int, ...] | None = None
        model = model or self.batch.model
        loss = partial(objective or self.objective, model)
        self.batch.run.losses = []
        with torch.enable_grad():
            for z, key in self._leaves(x if via is None else via(x), self.transforms):
                if key != previous:
                    if model.per_forward:
                        total += self._flush(x, pending, loss)
                    model.begin_forward()
                    previous = key
                pending.append(z)
                if (len(pending) + 1) * len(x) > self.batch.chunk:
                    total += self._flush(x, pending, loss)
            total += self._flush(x, pending, loss)
        return total / self.copies

    def _leaves(
        self, x: Tensor, transforms: tuple[Transform, ...], key: tuple[int, ...] = ()
    ) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Yield each copy with the number of its forward pass: the copies of a joint transform share one."""
        if not transforms:
            yield x, key
            return
        first, *rest = transforms
        for copy in range(first.copies):
            z = first(x, copy, self.batch)
            yield from self._leaves(z, tuple(rest), key if first.joint else (*key, copy))

    def _flush(self, x: Tensor, pending: list[Tensor], loss: Loss) -> Tensor:
        """Empty `pending` and return the summed gradient of its copies."""
        if not pending:
            return torch.zeros_like(x)
        leaves, pending[:] = list(pending), []
        stacked = torch.cat([leaf.detach() for leaf in leaves])
        rows = torch.arange(len(x), device=x.device).repeat(len(leaves))
        # the two-stage chain rule lets copies that share an earlier transform sit in different chunks
        pieces = zip(torch.split(stacked, self.batch.chunk), torch.split(rows, self.batch.chunk), strict=True)
        gradients, losses = zip(*(self._input_gradient(z, r, loss) for z, r in pieces), strict=True)
        self.batch.run.losses += torch.split(torch.cat(losses), len(x))
        dz = torch.split(torch.cat(gradients), len(x))
        total = torch.zeros_like(x)
        for leaf, d in zip(leaves, dz, strict=True):
            total += d if leaf is x else torch.autograd.grad(leaf, x, d, retain_graph=True)[0]
        return total

    def _input_gradient(self, z: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        z = z.requires_grad_()
        self.batch.run.rows = rows
        model = self.batch.model
        with model.once(z) if self.once and isinstance(model, PlainModel) else nullcontext(False) as lent:
            losses = loss(z, rows)
            # a sum, so that no image's gradient is scaled by how many others are in the chunk
            gradient = torch.autograd.grad(losses.sum(), z)[0].contiguous()
        return gradient.clone() if lent else gradient, losses.detach()


@part("gradient", "point")
@dataclass(frozen=True)
class AtPoint:
    """g = grad L at the point itself."""

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        return step.gradient(step.point)

    def evaluations(self) -> int:
        """Return 1."""
        return 1


@part("gradient", "emi")
@dataclass(frozen=True)
class EnhancedMomentum:
    """g = mean_i grad L(x + c_i * alpha * d_{t-1}), c_i evenly spaced in [-radius, radius].

    d_{t-1} is the previous direction, normalised to mean absolute value 1. Wang et al., "Boosting Adversarial
    Transferability through Enhanced Momentum", BMVC 2021, Eqs. 5-7 and official code (`samples` 11, `radius` 7).
    """

    samples: int = 11
    radius: float = 7.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.samples >= 1, "samples of emi is at least 1", self.samples)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        factors = torch.linspace(-self.radius, self.radius, self.samples, dtype=torch.float64).tolist()
        total = torch.zeros_like(step.point)
        for factor in factors:
            total += step.gradient(step.point + factor * step.alpha * step.previous)
        return total / self.samples

    def evaluations(self) -> int:
        """Return the number of samples."""
        return self.samples


@part("gradient", "pgn")
@dataclass(frozen=True)
class PenalizedGradientNorm:
    """g = mean_i (1 - delta) * g_i + delta * grad L(x_i - alpha * g_i / mean|g_i|).

    g_i = grad L(x_i) at x_i = x + U(-zeta*eps, zeta*eps). The finite difference stands for the Hessian-vector product that
    penalises the gradient's norm. Ge et al., "Boosting Adversarial Transferability by Achieving Flat Local Maxima",
    NeurIPS 2023, Alg. 1 (20 samples, zeta 3, delta 0.5). The official code normalises g_i by its mean absolute value.
    """

    samples: int = 20
    zeta: float = 3.0
    delta: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.samples >= 1, "samples of pgn is at least 1", self.samples)
        require(0 <= self.delta <= 1, "delta of pgn balances two gradients and lies in [0, 1]", self.delta)

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient."""
        radius = self.zeta * step.batch.eps
        total = torch.zeros_like(step.point)
        for _ in range(self.samples):
            near = step.point + step.batch.rng.uniform(step.point.shape[1:], -radius, radius).to(step.point.dtype)
            first = step.gradient(near)
            second = step.gradient(near - step.alpha * first / per_image_mean_abs(first))
            total += (1 - self.delta) * first + self.delta * second
        return total / self.samples

    def evaluations(self) -> int:
        """Return two gradients for each sample."""
        return 2 * self.samples


@part("variance", "vt")
@dataclass(frozen=True)
class Variance:
    """v = mean_i grad L(x + r_i) - g, r_i ~ U(-beta*eps, beta*eps), added to the gradient of the next iteration.

    Wang and He, "Enhancing the Transferability of Adversarial Attacks through Variance Tuning", CVPR 2021, Eq. 7
    (20 samples, beta 1.5).
    """

    samples: int = 20
    beta: float = 1.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.samples >= 1, "samples of variance tuning is at least 1", self.samples)
        require(self.beta > 0, "beta of variance tuning is a positive multiple of eps", self.beta)

    def __call__(self, step: Step, gradient: Tensor) -> Tensor:
        """Return v (N, C, H, W), given the gradient g of this iteration."""
        radius = self.beta * step.batch.eps
        total = torch.zeros_like(gradient)
        for _ in range(self.samples):
            total += step.gradient(
                step.adv + step.batch.rng.uniform(step.adv.shape[1:], -radius, radius).to(gradient.dtype)
            )
        return total / self.samples - gradient

    def evaluations(self) -> int:
        """Return the number of samples."""
        return self.samples
