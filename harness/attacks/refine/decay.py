"""ILPD: intermediate-level perturbation decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.attacks.attack import Attack
from harness.attacks.model import feature_layers
from harness.attacks.parts import Batch, Cost, Refinement, part, require
from harness.attacks.registry import preset


@part("refine", "ilpd")
@dataclass(frozen=True)
class PerturbationDecay(Refinement):
    """The feature layer shows gamma * f(z) + (1 - gamma) * f(x + n), n ~ N(0, sigma^2) anew in each iteration.

    Li et al., "Improving Adversarial Transferability via Intermediate-level Perturbation Decay", NeurIPS 2023, Eq. 4
    (gamma 0.1, sigma 0.05, one noise a step; the layer of ResNet-50 is the last of its second stage).
    """

    gamma: float = 0.1
    sigma: float = 0.05

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 <= self.gamma <= 1, "gamma of ilpd mixes two features and lies in [0, 1]", self.gamma)
        require(self.sigma >= 0, "sigma of ilpd is not negative", self.sigma)

    @contextmanager
    def around(self, batch: Batch) -> Iterator[None]:
        """Mix the features of the iteration into every pass; before the first iteration nothing is mixed."""
        batch.run.memory["ilpd"] = {}
        with ExitStack() as stack:
            for _, layer in feature_layers(batch.model):
                stack.callback(layer.register_forward_hook(self._mixing(batch, layer)).remove)
            yield

    def _mixing(self, batch: Batch, layer: nn.Module) -> Callable[[nn.Module, object, Tensor], Tensor]:
        kept: dict[nn.Module, Tensor] = batch.run.memory["ilpd"]

        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            if batch.run.memory.get("ilpd-record"):
                kept[layer] = torch.cat([kept[layer], output.detach()]) if layer in kept else output.detach().clone()
                return output
            return self.gamma * output + (1 - self.gamma) * kept[layer][batch.run.rows] if layer in kept else output

        return hook

    def begin(self, batch: Batch, adv: Tensor) -> None:
        """Run the clean images with noise and keep their features."""
        memory = batch.run.memory
        memory["ilpd"].clear()
        noisy = batch.x + batch.rng.normal(batch.x.shape[1:], self.sigma).to(batch.x)
        batch.model.begin_forward()
        memory["ilpd-record"] = True
        try:
            with torch.no_grad():
                for rows in batch.chunks():
                    batch.model(noisy[rows])
        finally:
            memory["ilpd-record"] = False

    def cost(self, steps: int) -> Cost:
        """Return one forward pass for each iteration."""
        return Cost(steps, 0)


@preset("ilpd", category="feature disruption", source="Li et al., NeurIPS 2023, Sec. 4")
def ilpd() -> Attack:
    """I-FGSM with 100 steps of eps / 16 (1/255 at 16/255). Whether the authors add momentum could not be found; none here."""
    return Attack(refine=PerturbationDecay(), steps=100, step_size=0.0625)
