"""LinBP: backpropagating linearly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.attacks.attack import Attack
from harness.attacks.autograd import straight_through
from harness.attacks.model import feature_layers
from harness.attacks.parts import Batch, Refinement, part
from harness.attacks.registry import preset
from harness.attacks.skip import residual_blocks

_RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class _Linear(TorchFunctionMode):
    """ReLUs number 0 ... `count` - 1 pass gradients as they are; None: all of them."""

    def __init__(self, count: int | None = None) -> None:
        super().__init__()
        self.count = count
        self.seen = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the gradient of a ReLU."""
        if func not in _RELUS:
            return func(*args, **(kwargs or {}))
        self.seen += 1
        if self.count is not None and self.seen > self.count:
            return func(*args, **(kwargs or {}))
        return straight_through(args[0], args[0].detach().clamp(min=0))


class _Block(torch.autograd.Function):
    """A residual block: its forward pass, and the gradient of its shortcut plus that of its linear branch, rescaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[Tensor, int | None], tuple[Tensor, Tensor, int]]) -> Tensor:
        with torch.enable_grad():
            ctx.leaf = x.detach().requires_grad_()
            ctx.out, ctx.entry, relus = run(ctx.leaf, 0)
            ctx.linear_out, ctx.linear_entry, _ = run(ctx.leaf, relus - 1)
        value: Tensor = ctx.out.detach()
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        shortcut, normal = torch.autograd.grad(ctx.out, (ctx.leaf, ctx.entry), grads[0], allow_unused=True)
        linear = torch.autograd.grad(ctx.linear_out, ctx.linear_entry, grads[0])[0]
        norms = [g.flatten(1).norm(dim=1)[:, None, None, None] for g in (normal, linear)]
        branch = linear * norms[0] / norms[1].clamp_min(torch.finfo(linear.dtype).tiny)
        return branch if shortcut is None else shortcut + branch, None


@part("refine", "linbp")
@dataclass(frozen=True)
class LinearBackward(Refinement):
    """Behind the feature layer, ReLUs pass gradients as if they were the identity; the forward pass stays as it is.

    In a residual block the ReLUs of the branch do, but not the one after the addition, and the branch's gradient is scaled,
    per image, to the L2 norm that it has without the rule. Guo et al., "Backpropagating Linearly Improves Transferability
    of Adversarial Examples", NeurIPS 2020, Sec. 3.2 and Eq. 7. The authors begin at the second block of ResNet-50's third
    stage; the feature layer of this zoo's ResNets is the end of the second. Blocks behind it run twice in each pass.
    """

    @contextmanager
    def around(self, batch: Batch) -> Iterator[None]:
        """Apply the rule to every network of the substitute."""
        with ExitStack() as stack:
            for network, layer in feature_layers(batch.model):
                self._apply(stack, network, layer)
            yield

    def _apply(self, stack: ExitStack, network: nn.Module, layer: nn.Module) -> None:
        state = {"behind": False}
        plain = ExitStack()

        def enter(_module: nn.Module, _args: object) -> None:
            state["behind"] = False

        def behind(_module: nn.Module, _args: object, _output: object) -> None:
            state["behind"] = True
            if not blocks:
                plain.enter_context(_Linear())

        def leave(_module: nn.Module, _args: object, _output: object) -> None:
            state["behind"] = False
            plain.close()

        blocks = residual_blocks(network)
        stack.callback(network.register_forward_pre_hook(enter).remove)
        stack.callback(layer.register_forward_hook(behind).remove)
        stack.callback(network.register_forward_hook(leave, always_call=True).remove)
        stack.callback(plain.close)
        for block, entry in blocks:
            self._replace(stack, block, entry, state)

    def _replace(self, stack: ExitStack, block: nn.Module, entry: nn.Module, state: dict[str, bool]) -> None:
        original = block.forward

        def run(x: Tensor, linear: int | None) -> tuple[Tensor, Tensor, int]:
            """Run the block with its branch cut off at its entry; return output, entry and the number of ReLUs."""
            entries: list[Tensor] = []

            def cut(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                entries.append(args[0].detach().requires_grad_())
                return (entries[0], *args[1:])

            handle = entry.register_forward_pre_hook(cut, prepend=True)
            try:
                with _Linear(linear) as mode:
                    out: Tensor = original(x)
            finally:
                handle.remove()
            return out, entries[0], mode.seen

        def forward(x: Tensor) -> Tensor:
            if not state["behind"]:
                plain: Tensor = original(x)
                return plain
            made: Tensor = _Block.apply(x, run)  # type: ignore[no-untyped-call]
            return made

        block.forward = forward
        stack.callback(block.__dict__.pop, "forward")


@preset("linbp", category="substitute refinement", source="Guo et al., NeurIPS 2020, Alg. 1")
def linbp() -> Attack:
    """I-FGSM with linear backpropagation behind the feature layer; the suite's T, where a public copy names 10 and runs 300."""
    return Attack(refine=LinearBackward())
