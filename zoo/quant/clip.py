"""The clip threshold or step of least squared quantisation error."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.quant.functional import SCALE_FLOOR
from zoo.quant.grids import Grid

_SAMPLE = 1 << 15  # values looked at: the optimum moves by about 1 % between samples of this size
_COARSE, _FINE = 56, 16
_RATIO = 1.09  # between neighbouring thresholds of the coarse search, which reaches down to 1/115 of the largest value


def sample_values(x: Tensor, count: int = _SAMPLE) -> Tensor:
    """Return at most `count` values of `x`, always the same ones for a given size, and always the largest in magnitude."""
    flat = x.flatten()
    if flat.numel() <= count:
        return flat
    chosen = torch.randint(flat.numel(), (count,), generator=torch.Generator().manual_seed(0))
    chosen[0] = flat.abs().argmax().cpu()
    return flat[chosen.to(flat.device)]


@torch.no_grad()
def best_scale(x: Tensor, grid: Grid) -> Tensor:
    """Return the scale at which projecting `x` onto `grid` has the least mean squared error.

    A geometric search over clip thresholds from the largest magnitude down, then a finer one around the best. All-zero
    values have no best scale; theirs is 1.
    """
    values = sample_values(x).float()
    extent = max(abs(grid.low), grid.high)
    peak = values.abs().max()
    if not bool(peak > 0):
        return torch.ones((), device=x.device)
    powers = torch.arange(_COARSE, device=x.device)
    best = _least_error(values, grid, peak / extent * _RATIO**-powers)
    powers = torch.linspace(-1, 1, _FINE + 1, device=x.device)
    return _least_error(values, grid, best * _RATIO**powers)


def _least_error(values: Tensor, grid: Grid, scales: Tensor) -> Tensor:
    scales = scales.clamp_min(SCALE_FLOOR)
    errors = [(grid.quantize(values, grid.constants(scale)) - values).square().sum() for scale in scales]
    return scales[int(torch.stack(errors).argmin())]
