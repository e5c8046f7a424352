"""TGR: token gradient regularisation for transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.attack import Attack
from harness.attacks.parts import Batch, Refinement, part, require
from harness.attacks.registry import preset
from zoo.errors import UserError


class _Regulated(torch.autograd.Function):
    """Identity whose gradient goes through a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.rule = rule
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.rule(grads[0]), None


def without_extremes(g: Tensor) -> Tensor:
    """Set to 0, in each channel of token gradients (..., tokens, C), the largest and the smallest."""
    flat = g.flatten(1, -2)
    kept = (
        torch.ones_like(flat)
        .scatter(1, flat.argmax(1, keepdim=True), 0.0)
        .scatter(1, flat.argmin(1, keepdim=True), 0.0)
    )
    return g * kept.reshape(g.shape)


def without_extreme_lines(g: Tensor) -> Tensor:
    """Set to 0, in each head of attention gradients (N, heads, T, S), the rows and columns of the largest and the smallest."""
    flat, kept = g.flatten(2), torch.ones_like(g)
    for place in (flat.argmax(2), flat.argmin(2)):
        row, column = place // g.shape[3], place % g.shape[3]
        rows = torch.arange(g.shape[2], device=g.device)[None, None, :] == row[..., None]
        columns = torch.arange(g.shape[3], device=g.device)[None, None, :] == column[..., None]
        kept = kept * ~(rows[..., :, None] | columns[..., None, :])
    return g * kept


@part("refine", "tgr")
@dataclass(frozen=True)
class TokenGradient(Refinement):
    """Gradients of each attention map, of queries, keys and values, and of each MLP lose their extreme tokens and are scaled.

    Per channel the tokens with the largest and the smallest gradient are set to 0 (in attention maps, their rows and
    columns), then gradients are scaled by `attention`, `qkv` and `mlp`. Zhang et al., "Transferable Adversarial Attacks on
    Vision Transformers with Token Gradient Regularization", CVPR 2023, Sec. 3.3 (0.25, 0.75; 0.5 for the MLP in the authors'
    code, 0.25 in the paper). For transformers as timm builds them: blocks with `attn.qkv`, `attn.attn_drop` and `mlp`; the
    last window's shape does not matter. Attention is computed without fused kernels meanwhile.
    """

    attention: float = 0.25
    qkv: float = 0.75
    mlp: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("attention", "qkv", "mlp"):
            require(
                0 <= getattr(self, name) <= 1,
                f"{name} of tgr scales a gradient and lies in [0, 1]",
                getattr(self, name),
            )

    @contextmanager
    def around(self, batch: Batch) -> Iterator[None]:
        """Apply the rule to every block.

        Raises:
            UserError: a network has no such block.
        """
        with ExitStack() as stack:
            for network in batch.model.networks():
                blocks = [block for block in network.modules() if self._is_block(block)]
                if not blocks:
                    raise UserError(
                        "tgr regularises tokens and this substitute has no transformer block that it recognises (attn.qkv, "
                        "attn.attn_drop, mlp); use a vision transformer"
                    )
                for block in blocks:
                    self._regulate(stack, block)
            yield

    def _is_block(self, block: nn.Module) -> bool:
        parts = dict(block.named_modules())
        direct = dict(block.named_children())
        return "attn" in direct and "mlp" in direct and "attn.qkv" in parts and "attn.attn_drop" in parts

    def _regulate(self, stack: ExitStack, block: nn.Module) -> None:
        attn: nn.Module = block.get_submodule("attn")
        if getattr(attn, "fused_attn", False):
            attn.fused_attn = False  # type: ignore[assignment]
            stack.callback(setattr, attn, "fused_attn", True)

        def entering(rule: Callable[[Tensor], Tensor], factor: float) -> Any:
            return lambda _m, args: (_Regulated.apply(args[0], lambda g: rule(g) * factor), *args[1:])  # type: ignore[no-untyped-call]

        def leaving(factor: float) -> Any:
            return lambda _m, _args, y: _Regulated.apply(y, lambda g: without_extremes(g) * factor)  # type: ignore[no-untyped-call]

        drop = attn.get_submodule("attn_drop")
        stack.callback(drop.register_forward_pre_hook(entering(without_extreme_lines, self.attention)).remove)
        stack.callback(attn.get_submodule("qkv").register_forward_hook(leaving(self.qkv)).remove)
        stack.callback(block.get_submodule("mlp").register_forward_hook(leaving(self.mlp)).remove)


@preset("tgr", category="substitute refinement", source="Zhang et al., CVPR 2023, Alg. 1")
def tgr() -> Attack:
    """MIM on a transformer whose token gradients are regularised."""
    return Attack(refine=TokenGradient(), decay=1.0)
