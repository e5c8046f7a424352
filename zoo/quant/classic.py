"""Quantisers of DoReFa-Net, PACT, XNOR-Net and BNN as modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.quant import functional as F
from zoo.quant.grids import Grid, uniform_grid
from zoo.quant.modules import ActivationQuantizer, Codes, WeightQuantizer

SIGN_GRID = Grid((-1, 1), 1, uniform=False)
"""Levels -1 and +1; the gradient passes where |x| <= 1."""


class DorefaWeight(WeightQuantizer):
    """DoReFa weights, which PACT uses too; nothing is learned besides the weight."""

    rescales = True

    def __init__(self, bits: int, w: Tensor) -> None:
        super().__init__(bits)

    def quantize(self, w: Tensor) -> Tensor:
        """See `functional.dorefa_weight`."""
        return F.dorefa_weight(w, self.bits)

    def codes(self, w: Tensor) -> Codes:
        """Return odd integers."""
        top = 2**self.bits - 1
        return Codes(tuple(range(-top, top + 1, 2)), F.dorefa_unit(w, self.bits))


class XnorWeight(WeightQuantizer):
    """XNOR-Net weights: a sign and one scale for each filter."""

    rescales = True

    def __init__(self, bits: int, w: Tensor) -> None:
        super().__init__(bits)

    def quantize(self, w: Tensor) -> Tensor:
        """See `functional.xnor_weight`."""
        return F.xnor_weight(w)

    def codes(self, w: Tensor) -> Codes:
        """Return signs with the scale of each filter."""
        return Codes((-1, 1), F.xnor_unit(w.detach()).flatten())


class BnnWeight(WeightQuantizer):
    """BNN weights: signs."""

    rescales = True

    def __init__(self, bits: int, w: Tensor) -> None:
        super().__init__(bits)

    def quantize(self, w: Tensor) -> Tensor:
        """See `functional.bnn_weight`."""
        return F.bnn_weight(w)

    def after_step(self, w: Tensor) -> None:
        """Clip the latent weight to [-1, 1] (Alg. 1 of BNN), beyond which steps change nothing but keep a sign from turning."""
        with torch.no_grad():
            w.clamp_(-1, 1)

    def codes(self, w: Tensor) -> Codes:
        """Return signs."""
        return Codes((-1, 1), torch.ones((), dtype=w.dtype, device=w.device))


class SignActivation(ActivationQuantizer):
    """XNOR-Net and BNN activations: +1 where x > 0, else -1, so that a ReLU's zeros and its positive values differ.

    There is nothing to calibrate.
    """

    one: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("one", torch.tensor(1.0), persistent=False)
        self.calibrated.fill_(True)
        self.signed.fill_(True)

    def grid(self, signed: bool) -> Grid:
        """Return the two levels."""
        return SIGN_GRID

    def scale(self) -> Tensor:
        """Return 1."""
        return self.one

    def calibrate(self, x: Tensor, signed: bool | None) -> None:
        """Refuse an unsigned range; otherwise there is nothing to set."""
        if signed is False:
            raise UserError(f"layer {self.layer!r} takes signs, which have no unsigned range: leave signed=None")


class DorefaActivation(ActivationQuantizer):
    """DoReFa activations: round(clip(x, 0, 1) * (2^k - 1)) / (2^k - 1); signed inputs are clipped to [-1, 1]."""

    one: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("one", torch.tensor(1.0), persistent=False)

    def grid(self, signed: bool) -> Grid:
        """Return even levels up to 1."""
        return _clipped_grid(self.bits, signed)

    def scale(self) -> Tensor:
        """Return the clip threshold, 1."""
        return self.one


class PactActivation(ActivationQuantizer):
    """PACT activations: clipped at a learned threshold, whose gradient is 1 where values were clipped and 0 elsewhere."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.alpha = nn.Parameter(torch.tensor(8.0))

    def grid(self, signed: bool) -> Grid:
        """Return even levels up to the threshold."""
        return _clipped_grid(self.bits, signed)

    def scale(self) -> Tensor:
        """Return the threshold."""
        return self.alpha

    def options(self, x: Tensor, grid: Grid) -> F.GradientRule:
        """Let only clipped values move the threshold."""
        return F.GradientRule(clip_only=True)

    def set_scale(self, value: Tensor) -> None:
        """Store the threshold."""
        with torch.no_grad():
            self.alpha.copy_(value)


def _clipped_grid(bits: int, signed: bool) -> Grid:
    return SIGN_GRID if signed and bits == 1 else uniform_grid(bits, signed, symmetric=True, by_clip=True)
