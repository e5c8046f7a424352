"""AWT: the substitute's weights are tuned while the attack runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.attack import Attack
from harness.attacks.gradients import PenalizedGradientNorm
from harness.attacks.parts import Batch, Cost, Refinement, part, require
from harness.attacks.registry import preset


@part("refine", "awt")
@dataclass(frozen=True)
class WeightTuning(Refinement):
    """Before each iteration one SAM step on the weights lowers L(x_t) + L(x): w = w - rate * u, u = momentum * u + G(w + e).

    G is the gradient with respect to the weights, e = rho * G(w) / ||G(w)||_2. Chen et al., "Enhancing Adversarial
    Transferability with Adversarial Weight Tuning", AAAI 2025, Alg. 1 (ResNet-50: rate 0.002, rho 0.005; momentum 0.5).
    Every image has weights of its own, so each is attacked alone, where the authors tune for a batch. Weights of convolutions
    and linear layers are tuned, not biases and norms; those of a quantised layer after their quantisation, which otherwise
    would hide the change.
    """

    rate: float = 0.002
    rho: float = 0.005
    momentum: float = 0.5
    alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.rate >= 0 and self.rho >= 0, "rate and rho of awt are not negative", (self.rate, self.rho))

    @contextmanager
    def around(self, batch: Batch) -> Iterator[None]:
        """Add a change, 0 at first, to the weights of every layer of the substitute."""
        changes: dict[nn.Module, Tensor] = {}
        batch.run.memory["awt"] = changes
        with ExitStack() as stack:
            for network in batch.model.networks():
                for layer in network.modules():
                    if isinstance(layer, nn.Conv2d | nn.Linear):
                        changes[layer] = torch.zeros(_shape(layer), dtype=batch.x.dtype, device=batch.x.device)
                        handle = layer.register_forward_hook(lambda m, args, y: y + _extra(m, args[0], changes[m]))
                        stack.callback(handle.remove)
            yield

    def begin(self, batch: Batch, adv: Tensor) -> None:
        """Make the step of one iteration."""
        memory = batch.run.memory
        changes: dict[nn.Module, Tensor] = memory["awt"]
        here = self._gradient(batch, adv)
        norm = torch.stack([g.square().sum() for g in here.values()]).sum().sqrt() + 1e-12
        before = dict(changes)
        changes.update({layer: before[layer] + self.rho * g / norm for layer, g in here.items()})
        away = self._gradient(batch, adv)
        push: dict[nn.Module, Tensor] = memory.setdefault("awt-push", {})
        for layer, g in away.items():
            push[layer] = g + self.momentum * push[layer] if layer in push else g
            changes[layer] = before[layer] - self.rate * push[layer]

    def _gradient(self, batch: Batch, adv: Tensor) -> dict[nn.Module, Tensor]:
        """Return d (L(adv) + L(x)) / d change of each layer that took part."""
        changes: dict[nn.Module, Tensor] = batch.run.memory["awt"]
        layers = list(changes)
        for layer in layers:
            changes[layer] = changes[layer].detach().requires_grad_()
        sign = 1.0 if batch.target is None else -1.0
        assert batch.run.objective is not None
        batch.model.begin_forward()
        batch.run.rows = torch.zeros(1, dtype=torch.int64, device=adv.device)
        with torch.enable_grad():
            loss = sum(sign * batch.run.objective(batch.model, z, batch.run.rows).sum() for z in (adv, batch.x))
        found = torch.autograd.grad(loss, [changes[layer] for layer in layers], allow_unused=True)  # type: ignore[arg-type]
        for layer in layers:
            changes[layer] = changes[layer].detach()
        return {layer: g for layer, g in zip(layers, found, strict=True) if g is not None}

    def cost(self, steps: int) -> Cost:
        """Return two passes of two images for each iteration."""
        return Cost(4 * steps, 4 * steps)


def _shape(layer: nn.Conv2d | nn.Linear) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size


def _extra(layer: Any, x: Tensor, change: Tensor) -> Tensor:
    """Return what the layer's output gains by the change of its weights.

    A convolution that computes the norm behind it, too (its forward pass has a `norm`), scales the change as the norm does.
    """
    if isinstance(layer, nn.Linear):
        return F.linear(x, change)
    extra = F.conv2d(x, change, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    norm = getattr(layer.forward, "norm", None)
    if norm is None:
        return extra
    factor: Tensor = (norm.running_var + norm.eps).rsqrt()
    return extra * (factor * norm.weight if norm.affine else factor)[:, None, None]


@preset("awt", category="substitute refinement", source="Chen et al., AAAI 2025, Alg. 1")
def awt() -> Attack:
    """PGN (20 samples, 3 eps, 0.5), decay 1.0, on a substitute whose weights take a SAM step before each iteration."""
    return Attack(gradient=PenalizedGradientNorm(), refine=WeightTuning(), decay=1.0)
