"""Quantisers as modules: parametrisations of `weight`, and quantisers of a layer's input.

A quantiser never changes its layer: switched off it returns what it is given, so one model has the states "fp", "w", "a"
and "wa". Inside `zoo.quant.frozen` a weight is quantised once and kept; the `enabled` flag still decides what is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.quant import functional as F
from zoo.quant.clip import best_scale
from zoo.quant.grids import Constants, Grid


class Codes(NamedTuple):
    """A weight as integers: `(numerators[i] - zero) * unit` equals the quantised weight bit for bit.

    `unit` and `zero` have one element, or one for each output channel (the first axis of the weight).
    """

    numerators: tuple[int, ...]
    unit: Tensor
    zero: Tensor | None = None


def _version(tensor: Tensor) -> tuple[int, int]:
    """A key that changes when a tensor is edited in place or replaced."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class WeightQuantizer(nn.Module):
    """Base of the parametrisations of `weight`. `enabled` switches it, `session` caches its result.

    `rescales` says that the quantised weight has another scale than the plain one by definition, so that the statistics of
    the plain network's batch normalisation say nothing about the quantised one.
    """

    rescales = False

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.enabled = True
        self.session = False
        self._key: tuple[tuple[int, int], ...] | None = None
        self._cache: Tensor | None = None

    def quantize(self, w: Tensor) -> Tensor:
        """Return the quantised weight with straight-through gradients."""
        raise NotImplementedError

    def codes(self, w: Tensor) -> Codes:
        """Return the grid that `quantize(w)` lies on."""
        raise NotImplementedError

    def initialize(self, w: Tensor) -> None:
        """Set learned scales from the weight; nothing by default."""

    def after_step(self, w: Tensor) -> None:
        """Bring the latent weight back into its range after a step of the optimiser; nothing by default."""

    def switch(self, on: bool) -> None:
        """Turn the quantiser on or off."""
        self.enabled = on

    def forward(self, w: Tensor) -> Tensor:
        """Return the weight that the layer computes with."""
        if not self.enabled:
            return w
        parts = (w, *self.parameters(recurse=False), *self.buffers(recurse=False))
        if not self.session or any(part.requires_grad for part in parts):
            return self.quantize(w)
        key = tuple(_version(part) for part in parts)
        if key != self._key or self._cache is None:
            with torch.no_grad():
                self._key, self._cache = key, self.quantize(w)
        return self._cache

    def freeze(self, on: bool) -> None:
        """Start or end a session; ending it drops the kept weight."""
        self.session = on
        if not on:
            self._key = self._cache = None

    def extra_repr(self) -> str:
        """Show the bitwidth."""
        return f"bits={self.bits}"


class ApotWeight(WeightQuantizer):
    """APoT weights with a learned clip threshold in units of the standard deviation.

    Standardising changes the scale of a layer's output, which batch normalisation takes back. In networks without any
    normalisation the buffer `gain`, the standard deviation of the weight before training, does; elsewhere it is None.
    """

    gain: Tensor | None
    rescales = True

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        F.apot_grid(bits, signed=True)
        self.alpha = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("gain", None)

    def quantize(self, w: Tensor) -> Tensor:
        """See `functional.apot_weight`."""
        return F.apot_weight(w, self.alpha, self.bits, self.gain)

    def codes(self, w: Tensor) -> Codes:
        """Return the additive powers-of-two grid at the learned threshold."""
        grid = F.apot_grid(self.bits, signed=True)
        scale = self.alpha.detach() if self.gain is None else self.alpha.detach() * self.gain
        return Codes(grid.numerators, grid.unit(scale.clamp_min(F.SCALE_FLOOR)))

    def initialize(self, w: Tensor) -> None:
        """Set the threshold that minimises the squared error of the standardised weight."""
        grid = F.apot_grid(self.bits, signed=True)
        with torch.no_grad():
            self.alpha.copy_(best_scale(F.standardize(w.detach()), grid))
        if self.gain is not None:
            self.keep_scale(w)

    def keep_scale(self, w: Tensor) -> None:
        """Give the quantised weight the spread of the plain one."""
        self.gain = w.detach().std(correction=0).clamp_min(1e-8)


class UniformWeight(WeightQuantizer):
    """LSQ weights with a learned step."""

    def __init__(self, bits: int, w: Tensor) -> None:
        super().__init__(bits)
        high = F.uniform_grid(bits, signed=True).high
        self.step = nn.Parameter((2 * w.detach().abs().mean() / high**0.5).clamp_min(F.SCALE_FLOOR).float())

    def quantize(self, w: Tensor) -> Tensor:
        """See `functional.uniform_weight`."""
        return F.uniform_weight(w, self.step, self.bits)

    def codes(self, w: Tensor) -> Codes:
        """Return the even grid at the learned step."""
        grid = F.uniform_grid(self.bits, signed=True)
        return Codes(grid.numerators, self.step.detach().clamp_min(F.SCALE_FLOOR))

    def initialize(self, w: Tensor) -> None:
        """Set the step that minimises the squared error."""
        with torch.no_grad():
            self.step.copy_(best_scale(w.detach(), F.uniform_grid(self.bits, signed=True)))


class EdgeWeight(WeightQuantizer):
    """Weights of a first or last layer, rounded in units of their peak.

    The buffer `largest_positive` is set for the released APoT nets, whose peak is max(w) rather than max|w|.
    """

    largest_positive: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("largest_positive", torch.tensor(False))
        self._peak: tuple[tuple[int, int], bool] | None = None

    def by_largest_positive(self) -> bool:
        """Return the flag, read from the device again only after it changed."""
        key = _version(self.largest_positive)
        if self._peak is None or self._peak[0] != key:
            self._peak = key, bool(self.largest_positive)
        return self._peak[1]

    def quantize(self, w: Tensor) -> Tensor:
        """See `functional.edge_weight`."""
        return F.edge_weight(w, self.bits, largest_positive=self.by_largest_positive())

    def codes(self, w: Tensor) -> Codes:
        """Return the even grid; it is wider than `bits` where negative weights exceed the largest positive one."""
        unit = F.edge_unit(w, self.bits, largest_positive=self.by_largest_positive())
        reach = max(int(w.detach().div(unit).round().abs().max()), 2 ** (self.bits - 1) - 1)
        return Codes(tuple(range(-reach, reach + 1)), unit)


class FixedWeight(WeightQuantizer):
    """A weight unpacked from integer codes: quantised already, so it can be neither switched off nor trained."""

    def quantize(self, w: Tensor) -> Tensor:
        """Return the weight as it is."""
        return w

    def codes(self, w: Tensor) -> Codes:
        """Refuse: the codes are in the file that the weight came from."""
        raise UserError("this model was unpacked from low-bit codes and cannot be packed again; copy its file instead")

    def switch(self, on: bool) -> None:
        """Refuse to be switched off."""
        if not on:
            raise UserError(
                "states 'fp' and 'a' need full-precision weights, but this model was unpacked from low-bit codes: "
                "use state 'w' or 'wa', or load the file that was saved with packed=False"
            )
        super().switch(on)


class ActivationQuantizer(nn.Module):
    """Base of the quantisers of a layer's input.

    Two buffers travel with the weights: `calibrated`, without which a forward pass is refused, and `signed`, whether the
    range includes negative values. `learned` names the one scale that training learns, where there is one.
    """

    calibrated: Tensor
    signed: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.enabled = True
        self.session = False
        self.layer = ""
        self.register_buffer("calibrated", torch.tensor(False))
        self.register_buffer("signed", torch.tensor(False))
        self._flags: tuple[bool, bool] = (False, False)
        self._flags_key: Any = None
        self._constants: Any = None
        self._constants_key: Any = None

    def grid(self, signed: bool) -> Grid:
        """Return the levels."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """Return the scale of the grid."""
        raise NotImplementedError

    def options(self, x: Tensor, grid: Grid) -> F.GradientRule:
        """Return how the gradient departs from the plain straight-through one."""
        return F.GradientRule()

    def set_scale(self, value: Tensor) -> None:
        """Store a calibrated scale; nothing where the range is fixed."""

    def flags(self) -> tuple[bool, bool]:
        """Return (calibrated, signed), read from the device again only after they changed."""
        key = (_version(self.calibrated), _version(self.signed))
        if key != self._flags_key:
            self._flags = bool(self.calibrated), bool(self.signed)
            self._flags_key = key
        return self._flags

    def calibrate(self, x: Tensor, signed: bool | None) -> None:
        """Set the range from data: signed where it holds negative values, and the clip of least squared error.

        Raises:
            UserError: An unsigned range was asked for and the input holds negative values.
        """
        lowest = float(x.min())
        if signed is False and lowest < 0:
            raise UserError(
                f"layer {self.layer!r} was to be quantised with an unsigned range, but its input goes down to {lowest:.4g}: "
                "leave signed=None to let the data decide, or pass signed=True"
            )
        negative = bool(signed) or lowest < 0
        self.calibrated.fill_(True)
        self.signed.fill_(negative)
        self.set_scale(best_scale(x.detach(), self.grid(negative)))

    def forward(self, x: Tensor) -> Tensor:
        """Quantise the input of the layer."""
        if not self.enabled:
            return x
        calibrated, signed = self.flags()
        if not calibrated:
            raise UserError(
                f"the input range of layer {self.layer!r} is not set: call zoo.quant.calibrate(model, images) "
                "or load calibrated weights before running the quantised model"
            )
        grid, scale = self.grid(signed), self.scale()
        if self.session and not scale.requires_grad:
            constants, options = self._frozen_constants(grid, scale)
            return F.quantize_ste(x, scale, grid, options, constants)
        return F.quantize_ste(x, scale, grid, self.options(x, grid))

    def _frozen_constants(self, grid: Grid, scale: Tensor) -> tuple[Constants, F.GradientRule]:
        key = (grid, _version(scale))
        if key != self._constants_key:
            self._constants, self._constants_key = F.frozen_constants(grid, scale), key
        constants: tuple[Constants, F.GradientRule] = self._constants
        return constants

    def freeze(self, on: bool) -> None:
        """Start or end a session, inside which the scale is read once."""
        self.session = on
        self._constants = self._constants_key = None

    def extra_repr(self) -> str:
        """Show the bitwidth."""
        return f"bits={self.bits}"


class ApotActivation(ActivationQuantizer):
    """APoT activations with a learned clip threshold."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        F.apot_grid(bits, signed=False)
        self.alpha = nn.Parameter(torch.tensor(6.0))

    def grid(self, signed: bool) -> Grid:
        """Return the additive powers-of-two levels."""
        return F.apot_grid(self.bits, signed)

    def scale(self) -> Tensor:
        """Return the clip threshold."""
        return self.alpha

    def set_scale(self, value: Tensor) -> None:
        """Store the clip threshold."""
        with torch.no_grad():
            self.alpha.copy_(value)


class UniformActivation(ActivationQuantizer):
    """LSQ activations with a learned step."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.step = nn.Parameter(torch.tensor(1.0))

    def grid(self, signed: bool) -> Grid:
        """Return even levels."""
        return F.uniform_grid(self.bits, signed)

    def scale(self) -> Tensor:
        """Return the step."""
        return self.step

    def options(self, x: Tensor, grid: Grid) -> F.GradientRule:
        """Scale the gradient of the step by LSQ's factor, counting the features of one image."""
        return F.GradientRule(gradient_factor=F.lsq_factor(x[0].numel(), grid))

    def set_scale(self, value: Tensor) -> None:
        """Store the step."""
        with torch.no_grad():
            self.step.copy_(value)


def quantize_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook of a quantised layer; a function of this module so that models can be deep-copied."""
    quantizer = cast(ActivationQuantizer, layer.input_quantizer)
    return (quantizer(args[0]), *args[1:])
