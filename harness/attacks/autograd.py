"""Identities with a gradient of their own."""

from __future__ import annotations

import torch
from torch import Tensor

Context = torch.autograd.function.FunctionCtx


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None  # type: ignore[attr-defined]


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x; its gradient is multiplied by `factor`."""
    scaled: Tensor = _Scale.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """Return `value`; its gradient passes to x unchanged."""
    replaced: Tensor = _Replace.apply(x, value)  # type: ignore[no-untyped-call]
    return replaced
