"""Targets that compute in several precisions: EMPIR's ensemble and Double-Win Quant's random choice.

Both hold one network per bitwidth, quantised here: the registry entry needs no `quant`. In training mode one member works at a
time, chosen by `begin_step`, so that each learns (and keeps its own statistics) at its own precision.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zoo.archs.base import ZooNet
from zoo.errors import UserError

FULL = 32


class MixedPrecision(ZooNet):
    """Members of one architecture at several bitwidths of weights and activations; 32 is full precision."""

    def __init__(self, classes: int, base: str, bits: tuple[int, ...], method: str, args: dict[str, object]) -> None:
        super().__init__()
        from zoo import archs, quant
        from zoo.registry.entry import QuantSpec

        if len(bits) < 2 or len(set(bits)) < len(bits):
            raise UserError(f"arch_args.bits: expected two or more different bitwidths, found {list(bits)}")
        self.bits = tuple(bits)
        self.members = nn.ModuleDict()
        for width in bits:
            net = archs.create(base, classes, **args)  # type: ignore[arg-type]
            if width != FULL:
                quant.quantize(net, QuantSpec.model_validate({"method": method, "w_bits": width, "a_bits": width}))
            self.members[f"{width}bit"] = net
        named = archs.named_layers(net)
        prefix = f"members.{width}bit."
        self.first_conv, self.classifier = prefix + named.first_conv[0], prefix + named.classifier
        self.feature_layer = prefix + (named.feature or named.classifier)
        self.active = 0
        self.alone = False
        """Whether the active member answers also in evaluation mode: an adversary attacks what a training step trains."""

    def networks(self) -> tuple[nn.Module, ...]:
        """Return the members in the order of `bits`."""
        return tuple(self.members.values())

    def begin_step(self, step: int, generator: Generator) -> None:
        """Choose the member that works in a training step; `generator` belongs to the step."""
        raise NotImplementedError

    def combine(self, x: Tensor) -> Tensor:
        """Return the logits of the whole in evaluation mode."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes)."""
        single = self.training or self.alone
        logits: Tensor = self.networks()[self.active](x) if single else self.combine(x)
        return logits


class Empir(MixedPrecision):
    """EMPIR (Sen et al., ICLR 2020): full-precision and low-bit nets decide together.

    combine: "logits" averages them, as the released code of QAA evaluates EMPIR; "vote" counts predictions, and mean
    probabilities break ties (EMPIR's majority voting). Members train in turn, each as if alone.
    """

    def __init__(
        self,
        classes: int,
        base: str,
        bits: tuple[int, ...] = (32, 4, 2),
        method: str = "apot",
        combine: Literal["logits", "vote"] = "logits",
        **args: object,
    ) -> None:
        super().__init__(classes, base, bits, method, args)
        if combine not in ("logits", "vote"):
            raise UserError(f"arch_args.combine: must be 'logits' or 'vote', is {combine!r}")
        self.how = combine

    def begin_step(self, step: int, generator: Generator) -> None:
        """Take turns."""
        self.active = step % len(self.bits)

    def combine(self, x: Tensor) -> Tensor:
        """Return mean logits, or votes."""
        logits = torch.stack([net(x) for net in self.networks()])
        if self.how == "logits":
            return logits.mean(0)
        votes = F.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
        return votes + logits.softmax(-1).mean(0) / 2


MOST_REPEATS = 1000
"""Draws of a precision for each image that a network may ask for."""


class RandomPrecision(MixedPrecision):
    """Double-Win Quant (Fu et al., ICML 2021): one set of weights, run at a precision drawn anew for each input.

    All members share the latent weights and have batch norm and ranges of their own. Training draws a precision for each
    step. A prediction draws one for each image from `seed`, the pixels and `repeat`, so that an outcome depends neither on
    the batch nor on what ran before; outcomes over `repeat` = 0 .. `repeats` - 1 sample the randomness of the defence.

    The paper draws among 4 to 16 bits; 8 is the most that `method="uniform"` has, and is near full precision already.
    """

    def __init__(
        self,
        classes: int,
        base: str,
        bits: tuple[int, ...] = (4, 5, 6, 7, 8),
        method: str = "uniform",
        repeats: int = 5,
        seed: int = 0,
        **args: object,
    ) -> None:
        super().__init__(classes, base, bits, method, args)
        if not 1 <= repeats <= MOST_REPEATS:
            raise UserError(f"arch_args.repeats: must lie in 1 to {MOST_REPEATS}, is {repeats}")
        self.repeats, self.seed, self.repeat = repeats, seed, 0
        share_weights(self.networks())

    def begin_step(self, step: int, generator: Generator) -> None:
        """Draw a precision."""
        self.active = int(torch.randint(len(self.bits), (), generator=generator))

    def draw(self, x: Tensor) -> Tensor:
        """Return the member (N,) that each image is run by: a hash in integers, which no order of summation can change."""
        generator = Generator().manual_seed(self.seed)
        factors = torch.randint(2**62, x[0].shape, generator=generator).mul_(2).add_(1).to(x.device)
        shift = (self.repeat * 0x9E3779B97F4A7C1 + 2**63) % 2**64 - 2**63  # as 64-bit integers wrap
        mixed = ((x * 4096).round().long() * factors).flatten(1).sum(1) + shift
        mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
        return (mixed >> 33) % len(self.bits)

    def combine(self, x: Tensor) -> Tensor:
        """Run each image by the member that is drawn for it."""
        drawn = self.draw(x.detach())
        places, parts = [], []
        for index, net in enumerate(self.networks()):
            chosen = (drawn == index).nonzero().flatten()
            if len(chosen):
                places.append(chosen)
                parts.append(net(x[chosen]))
        return torch.cat(parts)[torch.cat(places).argsort()]


def share_weights(networks: tuple[nn.Module, ...]) -> None:
    """Make convolutions and linear layers of all networks use the latent weights and biases of the first."""
    from zoo.quant import latent_weight
    from zoo.quant.convert import layers

    first = layers(networks[0])
    for net in networks[1:]:
        for name, layer in layers(net).items():
            weight = latent_weight(first[name])
            if "parametrizations" in dict(layer.named_children()):
                layer.parametrizations["weight"].original = weight  # type: ignore[union-attr, index]
            else:
                layer.weight = weight
            if layer.bias is not None:
                layer.bias = first[name].bias
