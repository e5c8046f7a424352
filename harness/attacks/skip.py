"""Refinement of the substitute's backward pass: skip connections carry more of the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from harness.attacks.autograd import scale_gradient
from harness.attacks.parts import Batch, Refinement, part, require
from zoo.errors import UserError

_SHORTCUTS = ("downsample", "shortcut", "drop_path")
_ENTRIES = ("conv1", "conv_pw", "conv_dw")


def residual_blocks(network: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return each residual block with the first module of its branch, as timm, torchvision and this zoo build them."""
    found = []
    for block in network.modules():
        parts = dict(block.named_children())
        entry = next((parts[name] for name in _ENTRIES if name in parts), None)
        if entry is not None and getattr(block, "has_skip", any(hasattr(block, name) for name in _SHORTCUTS)):
            found.append((block, entry))
    return found


@part("refine", "sgm")
@dataclass(frozen=True)
class SkipGradient(Refinement):
    """Decay the gradient of each residual branch: for z' = z + f(z), dz'/dz = 1 + gamma * df/dz.

    Wu et al., "Skip Connections Matter", ICLR 2020, Eq. 5 (gamma 0.2 for ResNets, 0.5 for DenseNets). The equation is
    applied once per branch, where the branch leaves z; the authors' code scales at ReLUs instead, which needs a root of
    gamma for blocks with two of them and skips some blocks.

    `branches` names the first module of each residual branch; None finds them in residual blocks as timm, torchvision and
    this zoo build them (a `conv1`, `conv_pw` or `conv_dw` beside a `downsample`, `shortcut` or `drop_path`).
    """

    gamma: float = 0.2
    branches: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 <= self.gamma <= 1, "gamma of sgm decays a gradient and lies in [0, 1]", self.gamma)

    @contextmanager
    def around(self, batch: Batch) -> Iterator[None]:
        """Apply the rule to every network of the substitute."""
        with ExitStack() as stack:
            for network in batch.model.networks():
                stack.enter_context(self.applied(network))
            yield

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Apply the rule to `network` within the context.

        Raises:
            UserError: the network has no residual branch, or none of the given names.
        """
        entries = self._entries(network)
        with ExitStack() as stack:
            for entry in entries:
                handle = entry.register_forward_pre_hook(self._scale_input)
                stack.callback(handle.remove)
            yield

    def _scale_input(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (scale_gradient(args[0], self.gamma), *args[1:])

    def _entries(self, network: nn.Module) -> list[nn.Module]:
        modules = dict(network.named_modules())
        if self.branches is not None:
            unknown = [name for name in self.branches if name not in modules]
            if unknown:
                raise UserError(
                    f"sgm: the substitute has no module {unknown[0]!r}; branches are names of its named_modules()"
                )
            return [modules[name] for name in self.branches]
        entries = [entry for _, entry in residual_blocks(network)]
        if not entries:
            raise UserError(
                "sgm needs skip connections and this substitute has no residual block that it recognises; "
                "use a residual network, or name the first module of each branch in `branches`"
            )
        return entries
