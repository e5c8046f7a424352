"""Sets of quantisation levels, and the fastest ways to project onto them in eager torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError

APOT_BITS = (2, 3, 4, 5, 6)

# Exponents of the powers of two that each additive term of APoT may take besides 0, by the bits of the unsigned level set.
_APOT_TERMS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((0,),),
    2: ((1, 2, 3),),
    3: ((1, 2, 4), (3,)),
    4: ((1, 3, 5), (2, 4, 6)),
    5: ((1, 3, 6), (2, 4, 7), (5,)),
    6: ((1, 4, 7), (2, 5, 8), (3, 6, 9)),
}

Constants = tuple[Any, ...]
"""What a grid needs of its scale, as tensors on its device."""


@dataclass(frozen=True)
class Grid:
    """A set of levels `numerator / denominator`, in units of a scale, and the fastest way to project onto it.

    `low` and `high` are the ends in units of the scale; values beyond them are clipped and pass no gradient.
    Values halfway between two levels go to the lower one (uniform grids: to the even one, as `torch.round` does).
    """

    numerators: tuple[int, ...]
    denominator: int
    uniform: bool

    @property
    def low(self) -> float:
        """Lowest level in units of the scale."""
        return self.numerators[0] / self.denominator

    @property
    def high(self) -> float:
        """Highest level in units of the scale."""
        return self.numerators[-1] / self.denominator

    @property
    def levels(self) -> Tensor:
        """The levels in units of the scale, sorted."""
        return (torch.tensor(self.numerators, dtype=torch.float64) / self.denominator).float()

    def unit(self, scale: Tensor) -> Tensor:
        """Return the number that the integer numerators are multiplied with."""
        return scale / self.denominator

    def constants(self, scale: Tensor) -> Constants:
        """Derive what `quantize` needs from a positive 0-dim scale."""
        unit = self.unit(scale)
        if self.uniform:
            return (unit,)
        if len(self.numerators) <= 4:
            return (*(scale * (edge / (2 * self.denominator)) for edge in self._edges()), unit)
        return (2 * self.denominator / scale, _table(self, scale.device, scale.dtype) * unit)

    def quantize(self, x: Tensor, constants: Constants) -> Tensor:
        """Project `x` onto the levels; shape and memory layout are kept, no gradient is recorded."""
        if self.uniform:
            (unit,) = constants
            return x.div(unit).round_().clamp_(self.numerators[0], self.numerators[-1]).mul_(unit)
        if len(self.numerators) <= 4:
            return self._by_comparison(x, constants)
        per_bin, values = constants
        first, last = 2 * self.numerators[0], 2 * self.numerators[-1]
        index = x.mul(per_bin).ceil_().clamp_(first, last).sub_(first).nan_to_num_().to(torch.int32)
        return _look_up(values.to(x.dtype), index)

    def _by_comparison(self, x: Tensor, constants: Constants) -> Tensor:
        *thresholds, unit = constants
        total = torch.gt(x, thresholds[0], out=torch.empty_like(x))  # a float result is faster than a bool one
        steps = [after - before for before, after in itertools.pairwise(self.numerators)]
        if steps[0] != 1:
            total.mul_(steps[0])
        above = torch.empty_like(x)
        for threshold, step in zip(thresholds[1:], steps[1:], strict=True):
            total.add_(torch.gt(x, threshold, out=above), alpha=step)
        if self.numerators[0]:
            total.add_(self.numerators[0])
        return total.mul_(unit)

    def _edges(self) -> list[int]:
        """Midpoints between neighbouring levels, in units of 1 / (2 * denominator)."""
        return [before + after for before, after in itertools.pairwise(self.numerators)]


def _look_up(values: Tensor, index: Tensor) -> Tensor:
    """Return `values[index]`; `index_select` takes 32-bit indices and is twice as fast, but only flat ones."""
    # Where a size of 1 makes both layouts true, the strides must be the plain ones: kernels round by their strides.
    if not index.is_contiguous() and index.dim() == 4 and index.is_contiguous(memory_format=torch.channels_last):
        last = index.permute(0, 2, 3, 1)
        return values.index_select(0, last.flatten()).view(last.shape).permute(0, 3, 1, 2)
    return values.index_select(0, index.flatten()).view(index.shape)


@lru_cache(maxsize=64)
def _table(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numerator of the level of each half-open bin ((j - 1) / 2D, j / 2D]."""
    bins = torch.arange(2 * grid.numerators[0], 2 * grid.numerators[-1] + 1)
    nearest = torch.bucketize(bins, torch.tensor(grid._edges()))
    return torch.tensor(grid.numerators)[nearest].to(device=device, dtype=dtype)


@cache
def apot_grid(bits: int, signed: bool) -> Grid:
    """Return the additive powers-of-two grid: `2**bits` levels in [0, 1], or `2**bits - 1` in [-1, 1] when signed.

    Raises:
        UserError: APoT has no levels at this bitwidth.
    """
    if bits not in APOT_BITS:
        raise UserError(
            f"APoT has no levels at {bits} bits: choose one of {', '.join(map(str, APOT_BITS))}, "
            "or method 'uniform' (2-8 bits), or 'xnor' or 'bnn' for 1 bit"
        )
    terms = _APOT_TERMS[bits - 1 if signed else bits]
    deepest = max(max(term) for term in terms)
    choices = [(0, *(2 ** (deepest - exponent) for exponent in term)) for term in terms]
    levels = sorted({sum(parts) for parts in itertools.product(*choices)})
    numerators = [*(-level for level in reversed(levels[1:])), *levels] if signed else levels
    return Grid(tuple(numerators), levels[-1], uniform=False)


@cache
def uniform_grid(bits: int, signed: bool, *, symmetric: bool = False, by_clip: bool = False) -> Grid:
    """Return evenly spaced levels.

    The scale is the step between levels, or the clip threshold with `by_clip`. Unsigned grids run over 0 .. 2^b - 1,
    signed ones over -2^(b-1) .. 2^(b-1) - 1, or over -(2^(b-1) - 1) .. 2^(b-1) - 1 when `symmetric`.
    """
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    low = 0 if not signed else -high if symmetric else -high - 1
    return Grid(tuple(range(low, high + 1)), high if by_clip else 1, uniform=True)


def apot_levels(bits: int, signed: bool = False) -> Tensor:
    """Return the APoT levels, sorted, with maximum 1: 2 bits unsigned are {0, 1/4, 1/2, 1}, signed {-1, 0, 1}."""
    return apot_grid(bits, signed).levels
