"""The one loop of all attacks, and the value that says which parts it runs."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import Tensor, nn

from harness.attacks.gradients import AtPoint, CopyGradient, Variance
from harness.attacks.losses import CrossEntropy, Logit
from harness.attacks.model import Model, as_model
from harness.attacks.parts import (
    Batch,
    Category,
    Cost,
    Filter,
    GradientRule,
    Loss,
    Refinement,
    Region,
    Step,
    Transform,
    Update,
    per_image_mean_abs,
)
from harness.attacks.pool import Pool
from harness.attacks.rng import Rng
from harness.attacks.update import SignStep
from zoo.errors import UserError

LATER: dict[str, object] = {"origin": "", "normalise": True, "update": SignStep(), "region": None}
"""Fields that an attack's repr shows only where they differ from these values."""


@dataclass(frozen=True)
class Attack:
    """An attack under the L-infinity norm, as a value: its repr is its configuration.

    With x_0 = x (or a uniform point of the ball), for t = 0 ... T - 1::

        g = gradient rule of the loss over transformed copies, at x_t + lookahead * alpha * decay * m
        d = filters(g + v)                          v: variance of the previous iteration
        m = decay * m + d / mean|d|                 per image; without `normalise`, decay * m + d
        x = project(update(x_t, m))                 x_t + alpha * sign(m), onto the eps ball and [0, 1], within the region

    mean|d| is the papers' ||d||_1 up to the constant C*H*W, which cannot change a sign; it is what gives m the scale that
    the lookahead needs, and what the authors' code uses. `steps` None takes the suite's number; `step_size` is alpha as a
    fraction of eps, None is 1 / steps. `target` chooses labels to move towards when the caller gives none: the class that
    the substitute finds least likely, or one of the others at random; None moves away from the true label. `origin` is the
    file or package that offers the attack, with its digest or version: parts of its own are described by their settings
    alone, and the code behind them may change.
    """

    loss: Loss = field(default_factory=CrossEntropy)
    transforms: tuple[Transform, ...] = ()
    gradient: GradientRule = field(default_factory=AtPoint)
    variance: Variance | None = None
    filters: tuple[Filter, ...] = ()
    decay: float = 0.0
    normalise: bool = True
    lookahead: float = 0.0
    refine: Refinement | None = None
    steps: int | None = None
    step_size: float | None = None
    random_start: bool = False
    target: Literal["least-likely", "random"] | None = None
    update: Update = field(default_factory=SignStep)
    region: Region | None = None
    origin: str = ""
    category: Category = field(default="gradient stabilisation", compare=False, repr=False)
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse settings that no attack can have."""
        for name in ("transforms", "filters"):
            if not isinstance(getattr(self, name), tuple):
                raise UserError(f"{name} of an attack must be a tuple of parts, not {getattr(self, name)!r}")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps of an attack must be at least 1, not {self.steps}")
        if self.step_size is not None and not self.step_size > 0:
            raise UserError(f"step_size is a positive fraction of eps, not {self.step_size}")
        if self.target not in (None, "least-likely", "random"):
            raise UserError(f"target of an attack is least-likely, random or null, not {self.target!r}")
        if self.decay < 0:
            raise UserError(f"decay (mu) of an attack must not be negative, not {self.decay}")

    def __repr__(self) -> str:
        """Return the call that makes this attack."""
        shown = [each.name for each in fields(self) if each.repr and not self._left_out(each.name)]
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def _left_out(self, name: str) -> bool:
        """Return whether a field is absent from the repr: rows name attacks as they did before the field was added."""
        return name in LATER and getattr(self, name) == LATER[name]

    def __call__(
        self,
        model: Model | nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        eps: float,
        steps: int,
        rng: Rng,
        pool: Pool | None = None,
        target: Tensor | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Return adversarial images in [0, 1] with |adv - x| <= eps.

        Args:
            model: the substitute, in evaluation mode; x (N, C, H, W) in [0, 1] and y (N,) the true labels.
            x: clean images.
            y: true labels.
            eps: radius of the ball, in [0, 1] units.
            steps: the suite's number of iterations, unless the attack fixes its own.
            rng: one generator per image; the attack starts from its beginning, whatever was drawn before.
            pool: the suite's images, for attacks that mix others in.
            target: labels (N,) to move towards; None moves away from y.
            chunk: images per forward pass, at most; None takes len(x). Memory follows it, results do not.
        """
        model = as_model(model)
        check(x, y, eps, steps, rng, target, chunk)
        if self.refine is not None and self.refine.alone and len(x) > 1:
            aims = [None] * len(x) if target is None else torch.split(target, 1)
            each = zip(torch.split(x, 1), torch.split(y, 1), rng.each(), aims, strict=True)
            return torch.cat(
                [self(model, a, b, eps=eps, steps=steps, rng=r, pool=pool, target=c) for a, b, r, c in each]
            )
        batch = Batch(model, x.detach(), y, target, eps, self.steps or steps, rng.fresh(), pool, chunk or len(x))
        with ExitStack() as stack:
            if self.refine is not None:
                stack.enter_context(self.refine.around(batch))
            model.begin_batch()
            if self.target is not None and target is None:
                batch = replace(batch, target=self._choose(batch))
            objective = self.loss.prepare(batch)
            batch.run.objective = objective
            model.begin_batch()
            once = self.refine is None and isinstance(self.loss, CrossEntropy | Logit)
            adv = self._iterate(batch, CopyGradient(batch, objective, self.transforms, once))
            model.begin_batch()
        return adv

    def _choose(self, batch: Batch) -> Tensor:
        """Return a label other than the true one for each image (N,)."""
        batch.model.begin_iteration(0)
        batch.model.begin_forward()
        with torch.no_grad():
            logits = torch.cat([batch.model(batch.x[rows]) for rows in batch.chunks()])
        true = torch.zeros_like(logits, dtype=torch.bool).scatter(1, batch.y[:, None], True)
        score = (
            logits if self.target == "least-likely" else batch.rng.fresh("target").uniform(logits.shape[1:]).to(logits)
        )
        return score.masked_fill(true, float("inf")).argmin(1)

    def _iterate(self, batch: Batch, gradient: CopyGradient) -> Tensor:
        low, high = (batch.x - batch.eps).clamp(min=0), (batch.x + batch.eps).clamp(max=1)
        if self.region is not None:
            free = self.region(batch) > 0
            low, high = torch.where(free, low, batch.x), torch.where(free, high, batch.x)
        alpha = batch.eps / batch.steps if self.step_size is None else batch.eps * self.step_size
        adv = batch.x
        if self.random_start:
            noise = batch.rng.uniform(adv.shape[1:], -batch.eps, batch.eps).to(adv.dtype)
            adv = torch.clamp(adv + noise, low, high)
        m, v, previous = torch.zeros_like(adv), torch.zeros_like(adv), torch.zeros_like(adv)
        finite = torch.ones((), dtype=torch.bool, device=adv.device)
        for t in range(batch.steps):
            batch.run.t = t
            batch.model.begin_iteration(t)
            if self.refine is not None:
                self.refine.begin(batch, adv)
            point = adv + self.lookahead * alpha * self.decay * m if self.lookahead else adv
            step = Step(gradient, adv, point, previous, alpha, batch, low, high)
            g = self.gradient(step)
            slope = self.update.slope(step)
            d = (g if slope is None else g * slope) + v
            if self.variance is not None and t + 1 < batch.steps:  # nothing follows the last step that could use it
                v = self.variance(step, g)
            for smooth in self.filters:
                d = smooth(d)
            previous = d / per_image_mean_abs(d)
            last, m = m, self.decay * m + (previous if self.normalise else d)
            # sign() would turn a NaN into 0 without a word; looked at once, at the end
            finite &= torch.isfinite(m).all()
            adv = torch.clamp(self.update(step, m, last), low, high)
        if not bool(finite):
            raise UserError(
                "the substitute's gradient is not finite, so there is no adversarial image; "
                "check its weights, and that its quantiser was calibrated or trained for this network"
            )
        return adv

    def cost(self, steps: int) -> Cost:
        """Return the passes per image when the suite asks for `steps` iterations."""
        steps = self.steps or steps
        rule = getattr(self.gradient, "cost", None)
        own = rule(steps) if rule else Cost(*[steps * self.gradient.evaluations()] * 2)
        gradients = own.backwards
        if self.variance is not None:
            gradients += (steps - 1) * self.variance.evaluations()
        passes = gradients * math.prod(transform.copies for transform in self.transforms)
        cost = self.loss.cost(steps) + Cost(passes + own.forwards - own.backwards + (self.target is not None), passes)
        for part in (*self.transforms, self.refine):
            extra = getattr(part, "cost", None)
            cost = cost + extra(steps) if extra else cost
        return cost

    def but(self, **changes: object) -> Attack:
        """Return a copy with some parts replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]


def check(x: Tensor, y: Tensor, eps: float, steps: int, rng: Rng, target: Tensor | None, chunk: int | None) -> None:
    """Refuse inputs that the loop would misread."""
    if x.ndim != 4 or not x.is_floating_point() or not len(x):
        raise UserError(
            f"an attack needs float images (N, C, H, W), not {tuple(x.shape)} {x.dtype}; divide uint8 by 255"
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError(
            "images must be finite and in [0, 1]; normalisation belongs inside the model, and uint8 pixels are divided by 255"
        )
    for name, labels in (("labels", y), ("target labels", target)):
        if labels is not None and (labels.shape != (len(x),) or labels.dtype != torch.int64):
            raise UserError(
                f"{name} must be int64 ({len(x)},), one per image, not {tuple(labels.shape)} {labels.dtype}"
            )
        if labels is not None and bool((labels < 0).any()):
            raise UserError(f"{name} must not be negative; labels count from 0")
    if not 0 < eps <= 1:
        raise UserError(f"eps must be in (0, 1], in [0, 1] pixel units, not {eps}; for k levels of 255 write k/255")
    if steps < 1:
        raise UserError(f"steps must be at least 1, not {steps}")
    if len(rng) != len(x):
        raise UserError(f"rng draws for {len(rng)} image(s), but the batch holds {len(x)}; give one index per image")
    if chunk is not None and chunk < 1:
        raise UserError(f"chunk is the number of images per forward pass and must be at least 1, not {chunk}")
