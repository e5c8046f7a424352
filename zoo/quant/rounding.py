"""Quantisers for post-training quantisation: per-channel weights whose rounding is learned, and activations that may drop.

Sources: AdaRound (Nagel et al., ICML 2020), QDrop (Wei et al., ICLR 2022). Both ranges are asymmetric: codes 0 .. 2^b - 1
stand for (code - zero) * unit.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from zoo.quant import functional as F
from zoo.quant.clip import sample_values
from zoo.quant.grids import Grid
from zoo.quant.modules import ActivationQuantizer, Codes, WeightQuantizer

_NORM = 2.4  # power of the error that ranges minimise
_SHRINK = 48  # candidate ranges, evenly spaced down from the full one
_ALL_ZEROS_UP_TO = 4  # bits; above, only the zero that the data suggest is tried, as the others hardly differ


@torch.no_grad()
def best_range(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return (unit, zero) of the least error |q(x) - x|^2.4 for each row: a search over widths and, at few bits, zeros.

    Args:
        rows: (channels, values).
        bits: Codes run over 0 .. 2^bits - 1. Rows without negative values keep zero = 0.
    """
    top = 2**bits - 1
    low, high = rows.amin(1).clamp_max(0), rows.amax(1).clamp_min(0)
    width = (high - low).clamp_min(top * 1e-8)
    best = torch.full_like(width, torch.inf)
    unit, zero = width / top, torch.zeros_like(width)
    for share in torch.linspace(1, 1 / _SHRINK, _SHRINK).tolist():
        candidate = width * share / top
        natural = (-low / (high - low).clamp_min(1e-30) * top).round().clamp(0, top)
        zeros = [natural] if bits > _ALL_ZEROS_UP_TO else [torch.full_like(width, z) for z in range(top + 1)]
        for shift in zeros:
            shift = torch.where(low < 0, shift, 0)
            q = rows.div(candidate[:, None]).round_().add_(shift[:, None]).clamp_(0, top)
            q.sub_(shift[:, None]).mul_(candidate[:, None])
            error = q.sub_(rows).abs_().pow_(_NORM).sum(1)
            better = error < best
            best = torch.where(better, error, best)
            unit, zero = torch.where(better, candidate, unit), torch.where(better, shift, zero)
    return unit, zero


class RoundedWeight(WeightQuantizer):
    """A weight stored twice: in full precision for the state "fp", and as integer codes chosen once.

    While the rounding is learned, `relaxed` holds AdaRound's variables and the weight is soft; `harden` ends that.
    """

    code: Tensor
    unit: Tensor
    zero: Tensor

    def __init__(self, bits: int, w: Tensor) -> None:
        super().__init__(bits)
        channels = w.shape[0]
        self.register_buffer("code", torch.zeros(w.shape, dtype=torch.uint8))
        self.register_buffer("unit", torch.ones(channels))
        self.register_buffer("zero", torch.zeros(channels))
        self._relaxed: list[nn.Parameter] = []  # in a list, so that it is not part of the state dict

    @property
    def relaxed(self) -> nn.Parameter | None:
        """The variables behind soft rounding, while it is learned."""
        return self._relaxed[0] if self._relaxed else None

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (self.code.dim() - 1))

    def initialize(self, w: Tensor) -> None:
        """Set each channel's range by the least error, and round to the nearest code."""
        rows = w.detach().float().flatten(1)
        if rows.shape[1] > 512:
            chosen = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:512].to(rows.device)
            sampled = torch.cat((rows[:, chosen], rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)), 1)
        else:
            sampled = rows
        unit, zero = best_range(sampled, self.bits)
        self.unit.copy_(unit)
        self.zero.copy_(zero)
        scaled = w.detach() / self._per_channel(unit)
        self.code.copy_((scaled.round() + self._per_channel(zero)).clamp(0, 2**self.bits - 1))

    def quantize(self, w: Tensor) -> Tensor:
        """Return (code - zero) * unit, or while rounding is learned its soft version."""
        unit, zero = self._per_channel(self.unit), self._per_channel(self.zero)
        if self.relaxed is None:
            return F.replace_ste(w, (self.code.to(w.dtype) - zero) * unit)
        code = (w / unit).floor() + self.softness() + zero
        return (code.clamp(0, 2**self.bits - 1) - zero) * unit

    def codes(self, w: Tensor) -> Codes:
        """Return the even grid of each channel."""
        return Codes(tuple(range(2**self.bits)), self.unit, self.zero)

    def relax(self, w: Tensor) -> nn.Parameter:
        """Start learning the rounding, from variables whose softness is the fractional part of w / unit."""
        scaled = w.detach() / self._per_channel(self.unit)
        part = (scaled - scaled.floor()).clamp(1e-3, 1 - 1e-3)
        self._relaxed = [nn.Parameter(torch.logit((part + 0.1) / 1.2))]
        return self._relaxed[0]

    def softness(self) -> Tensor:
        """AdaRound's h in [0, 1]: 0 rounds down, 1 rounds up."""
        assert self.relaxed is not None
        return (1.2 * torch.sigmoid(self.relaxed) - 0.1).clamp(0, 1)

    @torch.no_grad()
    def harden(self, w: Tensor) -> None:
        """Take the nearer end of each softness as the rounding, and stop learning it."""
        assert self.relaxed is not None
        scaled = (w / self._per_channel(self.unit)).floor() + (self.relaxed >= 0) + self._per_channel(self.zero)
        self.code.copy_(scaled.clamp(0, 2**self.bits - 1))
        self._relaxed = []


@cache
def _shifted_grid(bits: int, zero: int) -> Grid:
    return Grid(tuple(range(-zero, 2**bits - zero)), 1, uniform=True)


class DroppingActivation(ActivationQuantizer):
    """Activations with a learned step and a fixed zero; while `drop` is positive, that share stays unquantised at random."""

    zero: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.step = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("zero", torch.tensor(0))
        self.drop = 0.0
        self.generator: torch.Generator | None = None
        self._zero_read = 0

    def grid(self, signed: bool) -> Grid:
        """Return the even levels around the zero."""
        return _shifted_grid(self.bits, self._zero_read)

    def flags(self) -> tuple[bool, bool]:
        """Return (calibrated, signed), and notice a new zero."""
        before = self._flags_key
        flags = super().flags()
        if self._flags_key != before:
            self._zero_read = int(self.zero)
        return flags

    def scale(self) -> Tensor:
        """Return the step."""
        return self.step

    @torch.no_grad()
    def calibrate(self, x: Tensor, signed: bool | None) -> None:
        """Set step and zero by the least error; without negative values the zero is 0."""
        unit, zero = best_range(sample_values(x.detach()).float()[None], self.bits)
        self.zero.fill_(int(zero))
        super().calibrate(x, signed)
        self._zero_read = int(zero)
        self.step.copy_(unit[0])

    def forward(self, x: Tensor) -> Tensor:
        """Quantise, each value with probability 1 - drop."""
        q = super().forward(x)
        if self.drop <= 0 or not self.enabled:
            return q
        keep = torch.rand(x.shape, generator=self.generator, device=x.device) < self.drop
        return torch.where(keep, x, q)
