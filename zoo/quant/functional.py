"""Quantisers as pure functions: levels, projections and the straight-through gradients that train them.

Every quantiser here is `q = numerator * unit`, where the integer numerators belong to a `Grid` and the unit follows from one
scale (a clip threshold or a step). `project` is the slow exact projection that tests compare the fast ones with.

Sources: APoT (Li et al., ICLR 2020), LSQ (Esser et al., ICLR 2020), DoReFa-Net (Zhou et al., 2016), PACT (Choi et al., 2018),
XNOR-Net (Rastegari et al., ECCV 2016), BNN (Hubara et al., NIPS 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.quant.grids import Constants, Grid, apot_grid, apot_levels, uniform_grid

__all__ = [
    "SCALE_FLOOR",
    "GradientRule",
    "apot_activation",
    "apot_grid",
    "apot_levels",
    "apot_weight",
    "binary",
    "bnn_weight",
    "dorefa_unit",
    "dorefa_weight",
    "edge_unit",
    "edge_weight",
    "frozen_constants",
    "lsq_factor",
    "project",
    "quantize_ste",
    "replace_ste",
    "standardize",
    "uniform_activation",
    "uniform_grid",
    "uniform_weight",
    "xnor_unit",
    "xnor_weight",
]

SCALE_FLOOR = 1e-12
"""Learned scales are read no smaller than this, so that a step too far cannot flip the sign of a quantiser."""


def project(x: Tensor, levels: Tensor) -> Tensor:
    """Return the nearest of the sorted levels for each value; halfway goes to the lower one. Exact and slow."""
    wide = levels.double()
    return levels[torch.bucketize(x.double().contiguous(), (wide[1:] + wide[:-1]) / 2)]


class _StraightThrough(torch.autograd.Function):
    """Projection onto a grid with the straight-through estimator.

    With u = x / scale, inside [low, high]: dq/dx = 1, dq/dscale = q/scale - u; outside: dq/dx = 0, dq/dscale = low or high.
    Both cases of the latter are (q - x * dq/dx) / scale.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, grid: Grid, constants: Constants, options: GradientRule) -> Tensor:
        """Quantise, keeping for the backward pass what it needs."""
        q = grid.quantize(x, constants)
        ctx.grid, ctx.options = grid, options
        ctx.save_for_backward(x, scale, q if ctx.needs_input_grad[1] else None)
        return q

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Return the gradients of `x` and of the scale."""
        x, scale, q = ctx.saved_tensors
        inside = _pass_inside(grad, x, scale, ctx.grid, ctx.options.bounds)
        grad_scale = None
        if ctx.needs_input_grad[1]:
            own = grad * q if ctx.options.clip_only else torch.sub(grad * q, inside * x)
            if ctx.options.clip_only:  # PACT: the threshold learns from clipped values alone
                own = own * (inside != grad)
            grad_scale = (own.sum() / scale * ctx.options.gradient_factor).reshape(scale.shape)
        return (inside if ctx.options.clip_gradient else grad), grad_scale, None, None, None


@dataclass(frozen=True)
class GradientRule:
    """How the straight-through gradient departs from the plain one.

    `bounds` are the clip thresholds as floats where they are known, which saves reading them from the device.
    """

    clip_gradient: bool = True
    gradient_factor: float = 1.0
    clip_only: bool = False
    bounds: tuple[float, float] | None = None


def _pass_inside(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid, bounds: tuple[float, float] | None) -> Tensor:
    """Zero the gradient of clipped values; the thresholds themselves count as inside."""
    if bounds is not None:
        result: Tensor = torch.ops.aten.hardtanh_backward(grad, x, *bounds)
        return result
    return grad * ((x >= scale * grid.low) & (x <= scale * grid.high))


def frozen_constants(grid: Grid, scale: Tensor) -> tuple[Constants, GradientRule]:
    """Read a scale once, for many calls of `quantize_ste` with it: nothing is derived anew, and the backward takes one pass.

    What values are divided and multiplied by stays a tensor: a GPU divides by a float by multiplying with its reciprocal,
    which is another code for a few values in a million.
    """
    scale = scale.detach().reshape(()).clamp_min(SCALE_FLOOR)
    constants = grid.constants(scale)
    low, high = (torch.stack((scale * grid.low, scale * grid.high)).to(torch.float32)).tolist()
    # hardtanh_backward excludes its bounds, clipping here includes them; 1e-30 is below any value that matters.
    low = low - max(abs(low) * 1e-7, 1e-30)
    return constants, GradientRule(bounds=(low, high + abs(high) * 1e-7))


def quantize_ste(
    x: Tensor,
    scale: Tensor,
    grid: Grid,
    options: GradientRule | None = None,
    constants: Constants | None = None,
) -> Tensor:
    """Project `x` onto `grid` at `scale` with straight-through gradients for both.

    Args:
        x: Any shape.
        scale: 0-dim or one element; read no smaller than `SCALE_FLOOR`.
        grid: Levels in units of the scale.
        options: Departures from the plain gradient.
        constants: Those of `frozen_constants`, when the scale does not change between calls.
    """
    options = options or GradientRule()
    if constants is None:
        scale = scale.reshape(())
        constants = grid.constants(scale.detach().clamp_min(SCALE_FLOOR))
    result: Tensor = _StraightThrough.apply(x, scale, grid, constants, options)  # type: ignore[no-untyped-call]
    return result


class _Replace(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient straight through to `x`."""
        return grad, None


def replace_ste(x: Tensor, value: Tensor) -> Tensor:
    """Return exactly `value`, whose gradient goes to `x` unchanged (x + (value - x) would round)."""
    result: Tensor = _Replace.apply(x, value.detach())  # type: ignore[no-untyped-call]
    return result


def standardize(w: Tensor) -> Tensor:
    """Return (w - mean) / std over the whole tensor (APoT's weight normalisation); gradients flow through both."""
    std = w.std(correction=1 if w.numel() > 1 else 0)
    return (w - w.mean()) / std.clamp_min(1e-8)


def apot_weight(w: Tensor, alpha: Tensor, bits: int, gain: Tensor | None = None) -> Tensor:
    """Quantise weights by APoT: alpha * P(clip(w_hat / alpha, -1, 1)) with w_hat = (w - mean) / std.

    At 2 bits the levels are {-alpha, 0, alpha} and the gradient of the weights is not clipped (APoT's calibrated gradient).
    `gain` is a constant factor on the result, for layers that no batch normalisation follows.
    """
    w_hat = standardize(w)
    if gain is not None:
        w_hat, alpha = w_hat * gain, alpha * gain
    return quantize_ste(w_hat, alpha, apot_grid(bits, signed=True), GradientRule(clip_gradient=bits != 2))


def apot_activation(x: Tensor, alpha: Tensor, bits: int, signed: bool = False) -> Tensor:
    """Quantise activations by APoT: alpha * P(clip(x / alpha, 0, 1)), or clipped to [-1, 1] when signed."""
    return quantize_ste(x, alpha, apot_grid(bits, signed))


def lsq_factor(features: int, grid: Grid) -> float:
    """LSQ's factor on the gradient of a step: 1 / sqrt(features * highest level)."""
    return 1 / math.sqrt(features * max(grid.numerators[-1], 1))


def uniform_weight(w: Tensor, step: Tensor, bits: int) -> Tensor:
    """Quantise weights by LSQ: step * round(clip(w / step, -2^(b-1), 2^(b-1) - 1))."""
    grid = uniform_grid(bits, signed=True)
    return quantize_ste(w, step, grid, GradientRule(gradient_factor=lsq_factor(w.numel(), grid)))


def uniform_activation(x: Tensor, step: Tensor, bits: int, signed: bool = False) -> Tensor:
    """Quantise activations by LSQ; the gradient factor counts the features of one image, whatever the batch size."""
    grid = uniform_grid(bits, signed)
    return quantize_ste(x, step, grid, GradientRule(gradient_factor=lsq_factor(x[0].numel(), grid)))


def edge_unit(w: Tensor, bits: int, *, largest_positive: bool = False) -> Tensor:
    """Return the step of an edge layer's weights: max|w| / (2^(b-1) - 1).

    With `largest_positive` it is max(w) in place of max|w|, as in the released APoT nets, whose codes may exceed the range.
    """
    peak = w.detach().max() if largest_positive else w.detach().abs().max()
    unit: Tensor = peak / (2 ** (bits - 1) - 1)
    return unit.clamp_min(1e-12)


def edge_weight(w: Tensor, bits: int = 8, *, largest_positive: bool = False) -> Tensor:
    """Round the weights of a first or last layer to `bits`; the gradient passes straight through."""
    unit = edge_unit(w, bits, largest_positive=largest_positive)
    return replace_ste(w, w.detach().div(unit).round_().mul_(unit))


def dorefa_weight(w: Tensor, bits: int) -> Tensor:
    """Quantise weights by DoReFa: 2 * round_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1; at 1 bit sign(w) * mean|w|.

    Rounding passes the gradient straight through and tanh is differentiated; max|tanh(w)| and, at 1 bit, mean|w| are
    constants for the gradient.
    """
    if bits == 1:
        scale = w.abs().mean()
        return replace_ste(w, binary(w) * scale.detach())
    squashed = w.tanh()
    share = squashed / (2 * squashed.detach().abs().max().clamp_min(1e-12)) + 0.5
    top = 2**bits - 1
    return replace_ste(2 * share, (2 * (share.detach() * top).round() - top) * dorefa_unit(w, bits))


def dorefa_unit(w: Tensor, bits: int) -> Tensor:
    """Return the number that DoReFa's odd integers -(2^k - 1) .. 2^k - 1 are multiplied with; at 1 bit mean|w|."""
    return w.detach().abs().mean() if bits == 1 else torch.tensor(1 / (2**bits - 1), dtype=w.dtype, device=w.device)


def binary(x: Tensor) -> Tensor:
    """Return +1 where x >= 0 and -1 elsewhere, without a gradient."""
    return torch.where(x.detach() >= 0, 1.0, -1.0).to(x.dtype)


def xnor_centre(w: Tensor) -> Tensor:
    """Return weights centred over the input channels, where there are several, and clamped to [-1, 1]."""
    return ((w - w.mean(1, keepdim=True)) if w.shape[1] > 1 else w).clamp(-1, 1)


def xnor_unit(w: Tensor) -> Tensor:
    """Return mean|w| of each filter of centred weights, to be broadcast over it."""
    return xnor_centre(w).abs().mean(tuple(range(1, w.dim())), keepdim=True)


def xnor_weight(w: Tensor) -> Tensor:
    """Binarise weights by XNOR-Net: sign(c) * mean|c| per filter, with c = clamp(w - mean over input channels, -1, 1).

    The gradient is the paper's: through the mean, and through the sign where |c| < 1.
    """
    centred = xnor_centre(w)
    unit = xnor_unit(w)
    return replace_ste(unit * replace_ste(centred, binary(centred)), binary(centred) * unit)


def bnn_weight(w: Tensor) -> Tensor:
    """Binarise weights by BNN: sign(w), the gradient straight through."""
    return replace_ste(w, binary(w))
