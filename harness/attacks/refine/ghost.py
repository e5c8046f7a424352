"""Ghost networks: a new random network in each iteration, made of the substitute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from harness.attacks.attack import Attack
from harness.attacks.parts import Batch, Refinement, part, require
from harness.attacks.registry import preset
from harness.attacks.rng import Rng
from harness.attacks.skip import residual_blocks


@part("refine", "ghost")
@dataclass(frozen=True)
class Ghost(Refinement):
    """Skip connections are scaled by U(1 - skip, 1 + skip) per channel; networks without them drop `drop` of each activation.

    Li et al., "Learning Transferable Adversarial Examples via Ghost Networks", AAAI 2020, Eqs. 4-6 (longitudinal ensemble:
    one network for each iteration). Public code has skip 0.16 for deep ResNets and keeps 0.994 in Inception-v3; the
    paper's values for other networks could not be looked up. Each image draws its own network, where the code draws one
    for the batch at each pass. Dropout acts on what enters each convolution and linear layer but the first, and divides by
    the share kept.
    """

    skip: float = 0.16
    drop: float = 0.006

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 <= self.skip < 1, "skip of ghost is a range below 1", self.skip)
        require(0 <= self.drop < 1, "drop of ghost is a probability below 1", self.drop)

    @contextmanager
    def around(self, batch: Batch) -> Iterator[None]:
        """Erode every network of the substitute."""
        with ExitStack() as stack:
            for n, network in enumerate(batch.model.networks()):
                blocks = residual_blocks(network)
                for i, (block, entry) in enumerate(blocks):
                    self._scale_skip(stack, batch, block, entry, f"ghost {n} {i}")
                if not blocks:
                    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
                    for i, layer in enumerate(layers[1:]):
                        handle = layer.register_forward_pre_hook(self._dropping(batch, f"ghost {n} {i}"), prepend=True)
                        stack.callback(handle.remove)
            yield

    def _scale_skip(self, stack: ExitStack, batch: Batch, block: nn.Module, entry: nn.Module, key: str) -> None:
        shortcut = getattr(block, "downsample", None)
        if isinstance(shortcut, nn.Module):
            handle = shortcut.register_forward_hook(lambda _module, _args, y: y * self._factors(batch, key, y))
            stack.callback(handle.remove)
            return

        def scale(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0] * self._factors(batch, key, args[0]), *args[1:])

        def unscale(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0] / self._factors(batch, key, args[0]), *args[1:])

        stack.callback(block.register_forward_pre_hook(scale).remove)
        stack.callback(entry.register_forward_pre_hook(unscale, prepend=True).remove)  # the branch sees what it saw

    def _factors(self, batch: Batch, key: str, x: Tensor) -> Tensor:
        """Return this iteration's factors of the skip connection for the images in flight, (n, C, 1, 1)."""
        drawn = self._drawn(batch, key, lambda rng: rng.uniform((x.shape[1], 1, 1), 1 - self.skip, 1 + self.skip))
        return drawn[batch.run.rows].to(x)

    def _dropping(self, batch: Batch, key: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def drop(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            kept = self._drawn(batch, key, lambda rng: rng.bernoulli(args[0].shape[1:], 1 - self.drop))
            return (args[0] * kept[batch.run.rows].to(args[0]) / (1 - self.drop), *args[1:])

        return drop

    def _drawn(self, batch: Batch, key: str, draw: Callable[[Rng], Tensor]) -> Tensor:
        """Return the draws of a layer, made once in each iteration."""
        memory: dict[str, Tensor] = batch.run.memory.setdefault("ghost", {})
        if key not in memory:
            memory[key] = draw(batch.rng.fresh(f"{key} {batch.run.t}"))
        return memory[key]

    def begin(self, batch: Batch, adv: Tensor) -> None:
        """Forget the network of the iteration before."""
        batch.run.memory["ghost"] = {}


@preset("ghost", category="substitute refinement", source="Li et al., AAAI 2020, Sec. 3.3")
def ghost() -> Attack:
    """MIM on a new ghost network in each iteration."""
    return Attack(refine=Ghost(), decay=1.0)
