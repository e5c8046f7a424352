"""Adversarial examples to train on: PGD (Madry et al., ICLR 2018), also against an ensemble (Tramer et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.mixed import MixedPrecision
from zoo.recipes.plan import AdversarialOptions
from zoo.recipes.runtime import Runtime
from zoo.recipes.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Iterator


class Adversary:
    """Perturbs a part of each training batch by signed gradient steps within an L-infinity ball.

    x_0 = x + U(-eps, eps) or x;  x_{t+1} = clip(x_t + step * sign(grad CE(f(x_t), y))) to the ball and to [0, 1].

    The net f is the trained one or, for ensemble-adversarial training, one of `sources` and the trained one, drawn for each
    step from the seed. It is attacked in evaluation mode, so that its running statistics see only what it learns from.
    """

    def __init__(
        self, model: nn.Module, options: AdversarialOptions, seed: int, sources: Sequence[nn.Module] = ()
    ) -> None:
        self.model, self.options, self.seed = model, options, seed
        self.sources = tuple(sources)

    def __call__(self, x: Tensor, y: Tensor, *, step: int, runtime: Runtime) -> Tensor:
        """Return the batch with all but its leading `clean_share` perturbed."""
        net, noise = self.draw(step, (len(x) * runtime.world, *x.shape[1:]))
        return self.perturbed(net, x, y, None if noise is None else runtime.part(noise.to(x.device)))

    def draw(self, step: int, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor | None]:
        """Return the net that is attacked in a step, and where in the ball each image starts, in [-1, 1]; null: where it is."""
        generator = stream(self.seed, "adversary", step)
        nets = (self.model, *self.sources)
        net = nets[int(torch.randint(len(nets), (), generator=generator))]
        return net, torch.rand(shape, generator=generator) * 2 - 1 if self.options.random_start else None

    def perturbed(self, net: nn.Module, x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
        """Return the batch with all but its leading `clean_share` perturbed, from where the noise says."""
        clean = round(self.options.clean_share * len(x))
        with _attacked(net):
            adv = self._attack(net, x[clean:], y[clean:], None if noise is None else noise[clean:])
        return torch.cat([x[:clean], adv])

    def _attack(self, net: nn.Module, x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
        eps, size = self.options.eps_levels / 255, self.options.step_levels / 255
        low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
        adv = x if noise is None else (x + eps * noise).clamp(low, high)
        for _ in range(self.options.attack_steps):
            adv = adv.detach().requires_grad_(True)
            loss = F.cross_entropy(net(adv), y, reduction="sum")
            (grad,) = torch.autograd.grad(loss, adv)
            adv = (adv.detach() + size * grad.sign()).clamp(low, high)
        return adv.detach()


@contextmanager
def _attacked(net: nn.Module) -> Iterator[None]:
    """Put a net in evaluation mode and freeze its parameters for the length of an attack.

    Of a net of several precisions the member is attacked that the step trains (Fu et al., ICML 2021, Alg. 1).
    """
    modes = [(part, part.training) for part in net.modules()]
    parameters = [(p, p.requires_grad) for p in net.parameters()]
    mixed = [part for part in net.modules() if isinstance(part, MixedPrecision)]
    try:
        net.eval()
        for several in mixed:
            several.alone = True
        net.requires_grad_(False)
        yield
    finally:
        for several in mixed:
            several.alone = False
        for part, training in modes:
            part.training = training
        for parameter, required in parameters:
            parameter.requires_grad_(required)
