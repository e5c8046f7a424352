"""A quantised network taken apart for export: integer weights with the norms' scales in theirs, and what its activations become.

Nothing is learned or calibrated here: the integers are those that the network's file holds, and the ranges those that it uses.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.errors import UserError
from zoo.quant.convert import activation_quantizers, layers, weight_quantizers
from zoo.quant.fold import fold_batchnorm, pairs
from zoo.quant.grids import Constants, Grid
from zoo.quant.modules import ActivationQuantizer, Codes, FixedWeight
from zoo.quant.pack import pack, read_codes
from zoo.quant.save import read_packed

STORED_BITS = (4, 8)
"""Widths of weights that ONNX has types for."""
_LARGEST_BIAS = 2**30
"""In units of a product of input and weight; the sum that it is added to needs the rest of 32 bits."""


@dataclass(frozen=True)
class IntegerTensor:
    """Integers with (stored - zero) * scale as their values; scale and zero have one element, or one for each output channel."""

    stored: Tensor
    scale: Tensor
    zero: Tensor
    bits: int


@dataclass
class Parts:
    """A network ready to be traced, with what was made of each layer."""

    net: nn.Module
    weights: dict[str, IntegerTensor] = field(default_factory=dict)
    activations: dict[str, int] = field(default_factory=dict)
    """Bits of each layer input that becomes integers."""
    floats: dict[str, str] = field(default_factory=dict)
    """What stays in float, with the reason."""
    folded: int = 0
    coarser: int = 0
    """Channels whose weights vanish beside their bias, see `with_room`."""

    def notes(self) -> list[str]:
        """Say in sentences what is integer in the file and what is not."""
        said = []
        if self.weights:
            bits = "/".join(map(str, sorted({part.bits for part in self.weights.values()})))
            said.append(f"weights of {len(self.weights)} layers are integers of {bits} bits, their norms in the scales")
        if self.activations:
            bits = "/".join(map(str, sorted(set(self.activations.values()))))
            said.append(f"inputs of {len(self.activations)} layers are quantised to integers of {bits} bits")
        if any(part.bits == 4 for part in self.weights.values()):
            said.append("the engine has no kernels for 4-bit weights: it makes floats of them before it multiplies")
        if self.coarser:
            said.append(
                f"{self.coarser} channels whose weights vanish beside their bias have a coarser scale than in the network"
            )
        said += [f"{count} x {reason}" for reason, count in Counter(self.floats.values()).items()]
        return said


@torch.no_grad()
def take_apart(net: nn.Module, path: Path, x: Tensor) -> Parts:
    """Turn a quantised network, in place, into one whose layers compute from integers, batch normalisation folded.

    Args:
        net: In evaluation mode, quantised and calibrated; of no other use afterwards.
        path: The file that it was loaded from: a packed one holds the codes.
        x: An example of what the network receives.

    Raises:
        UserError: the network is not quantised.
    """
    codes = _codes(net, path)
    named = layers(net)
    for name in codes:
        parametrize.remove_parametrizations(named[name], "weight", leave_parametrized=True)
    factors = {layer: _factor(norm) for _, layer, norm in pairs(net, x)}
    parts = Parts(net, folded=len(fold_batchnorm(net, x)))
    inputs = activation_quantizers(net)
    for name, layer in named.items():
        step = _replace_input(parts, name, layer, inputs[name]) if name in inputs else None
        if name in codes:
            _replace_weight(parts, name, layer, integers(*codes[name], factors.get(layer)), step)
            _replace_bias(parts, name, layer, step)
    _replace_others(parts)
    return parts


def _codes(net: nn.Module, path: Path) -> dict[str, tuple[Tensor, Codes]]:
    """Return the codes of each quantised weight: of the file where it is packed, and otherwise computed."""
    quantizers = weight_quantizers(net)
    if not quantizers:
        raise UserError(f"{path}: the network has no quantised weights, so there is nothing integer to export")
    fixed = any(isinstance(quantizer, FixedWeight) for quantizer in quantizers.values())
    tensors, meta = read_packed(path) if fixed else pack(net)
    return read_codes(tensors, meta)


def _factor(norm: nn.Module) -> Tensor:
    """Return what folding a norm multiplies the weight with, per channel."""
    norm = cast(nn.BatchNorm2d, norm)
    factor = (cast(Tensor, norm.running_var) + norm.eps).rsqrt()
    return factor * norm.weight if norm.affine else factor


def integers(index: Tensor, codes: Codes, factor: Tensor | None) -> IntegerTensor | None:
    """Return a weight as unsigned integers of 4 or 8 bits; None where its levels span more.

    Unsigned, since ONNX Runtime's kernels for signed weights saturate on processors without VNNI. A negative factor of a norm
    turns a channel's integers round, as scales are positive. (code - zero) * unit * factor = (stored - zero') * scale.
    """
    numbers = torch.tensor(codes.numerators)[index.long()]
    channels = index.shape[0]
    zero = (
        torch.zeros(channels, dtype=torch.long) if codes.zero is None else codes.zero.long().flatten().expand(channels)
    )
    low, high = codes.numerators[0], codes.numerators[-1]
    bits = next((b for b in STORED_BITS if high - low < 2**b and (low >= 0 or -low <= 2 ** (b - 1))), None)
    if bits is None:
        return None
    if low < 0:  # a signed grid: the middle of the unsigned one is its zero
        numbers, zero = numbers + 2 ** (bits - 1), zero + 2 ** (bits - 1)
    scale = codes.unit.flatten() if factor is None else codes.unit.flatten() * factor
    if bool((scale < 0).any()):
        around = (-1, *[1] * (index.dim() - 1))
        turned = (scale < 0).expand(channels)
        numbers = torch.where(turned.view(around), 2**bits - 1 - numbers, numbers)
        zero, scale = torch.where(turned, 2**bits - 1 - zero, zero), scale.abs()
    if codes.zero is None and scale.numel() == 1:
        zero, scale = zero[:1].reshape(()), scale.reshape(())
    else:
        scale = scale.expand(channels).contiguous()
    return IntegerTensor(numbers.to(torch.uint8), scale.float(), zero.to(torch.uint8), bits)


def with_room(made: IntegerTensor, bias: Tensor, step: Tensor) -> tuple[IntegerTensor, int]:
    """Give channels whose weights vanish beside their bias the finest scale in which the bias fits; return how many they are.

    Dead channels of a trained network have scales down to 1e-8 of the others'. The value of such a weight moves by less than
    2^-30 of the bias, in units of the input's step.
    """
    least = bias.abs() / (step * _LARGEST_BIAS * (1 - 1e-6))
    coarser = made.scale < least
    if made.bits != 8 or not made.scale.dim() or not bool(coarser.any()):
        return made, 0
    scale = torch.where(coarser, least, made.scale)
    around = (-1, *[1] * (made.stored.dim() - 1))
    zero = made.zero.to(torch.int32).view(around)
    signed = (made.stored.to(torch.int32) - zero) * (made.scale / scale).view(around)
    stored = torch.where(coarser.view(around), signed.round().to(torch.int32) + zero, made.stored.to(torch.int32))
    return IntegerTensor(stored.to(torch.uint8), scale, made.zero, made.bits), int(coarser.sum())


def _replace_weight(parts: Parts, name: str, layer: nn.Module, made: IntegerTensor | None, step: Tensor | None) -> None:
    if made is not None and step is not None and layer.bias is not None:
        made, changed = with_room(made, cast(Tensor, layer.bias), step)
        parts.coarser += changed
    if made is None:
        parts.floats[f"{name}.weight"] = "weights stay in float: their levels span more than 8 bits"
        return
    parts.weights[name] = made
    _stored(layer, "weight", made)


def _replace_bias(parts: Parts, name: str, layer: nn.Module, step: Tensor | None) -> None:
    """Hold a bias in 32 bits, in units of a product of input and weight, as integer kernels add it."""
    bias, weight = layer.bias, parts.weights.get(name)
    if bias is None or weight is None or step is None or weight.bits != 8:
        return
    scale = step * weight.scale
    rounded = (cast(Tensor, bias).double() / scale.double()).round()
    if bool((rounded.abs() > _LARGEST_BIAS).any()):
        parts.floats[f"{name}.bias"] = "bias stays in float: it does not fit in 32 bits"
        return
    zero = torch.zeros_like(scale, dtype=torch.int32)
    _stored(layer, "bias", IntegerTensor(rounded.to(torch.int32), scale, zero, 32))


def _stored(layer: nn.Module, attribute: str, made: IntegerTensor) -> None:
    setattr(layer, attribute, nn.Parameter(made.stored, requires_grad=False))
    parametrize.register_parametrization(layer, attribute, Dequantized(made), unsafe=True)


def _replace_input(parts: Parts, name: str, layer: nn.Module, quantizer: ActivationQuantizer) -> Tensor | None:
    """Put what is exported in place of a layer's input quantiser; return its step where it is an integer one."""
    exported = exported_activation(quantizer)
    layer.add_module("input_quantizer", exported)
    if isinstance(exported, IntegerActivation):
        parts.activations[name] = exported.bits
        return exported.scale
    parts.floats[f"{name}.input"] = _why_float(quantizer)
    return None


def _replace_others(parts: Parts) -> None:
    """Replace the quantisers that no convolution or linear layer owns, such as those of attention's products."""
    found = [(n, m) for n, m in parts.net.named_modules() if isinstance(m, ActivationQuantizer)]
    for name, quantizer in found:
        exported = exported_activation(quantizer)
        parent, _, leaf = name.rpartition(".")
        parts.net.get_submodule(parent).add_module(leaf, exported)
        if isinstance(exported, IntegerActivation):
            parts.activations[name] = exported.bits
        else:
            parts.floats[name] = _why_float(quantizer)


def _why_float(quantizer: ActivationQuantizer) -> str:
    grid = quantizer.grid(quantizer.flags()[1])
    if not grid.uniform:
        return "activations are rounded in float: additive powers of two are no even grid"
    return f"activations are rounded in float: {len(grid.numerators)} levels from {grid.numerators[0]} on are no byte"


def exported_activation(quantizer: ActivationQuantizer) -> nn.Module:
    """Return a quantiser as integers of at most 8 bits where its levels are even, and otherwise as what it does in float."""
    calibrated, signed = quantizer.flags()
    if not calibrated:
        raise UserError(
            f"the input range of layer {quantizer.layer!r} is not set: calibrate the network before exporting it"
        )
    grid, scale = quantizer.grid(signed), quantizer.scale().detach()
    levels, low = len(grid.numerators), grid.numerators[0]
    even = grid.uniform and grid.numerators[-1] - low == levels - 1
    if not even or levels > 256 or not -256 < low <= 0:
        return FloatActivation(grid, scale)
    return IntegerActivation(grid.unit(scale).float().reshape(()), -low, levels)


class Dequantized(nn.Module):
    """(stored - zero) * scale, as the graph's DequantizeLinear."""

    scale: Tensor
    zero: Tensor

    def __init__(self, made: IntegerTensor) -> None:
        super().__init__()
        self.bits = made.bits
        self.register_buffer("scale", made.scale)
        self.register_buffer("zero", made.zero)

    def forward(self, stored: Tensor) -> Tensor:
        """Return the values."""
        result: Tensor = torch.ops.zoo.dequantize(stored, self.scale, self.zero, self.bits)
        return result


class IntegerActivation(nn.Module):
    """Round to bytes and back, as the graph's QuantizeLinear and DequantizeLinear, clipped before to fewer levels than 256."""

    scale: Tensor
    zero: Tensor

    def __init__(self, scale: Tensor, zero: int, levels: int) -> None:
        super().__init__()
        self.bits = (levels - 1).bit_length()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.uint8))
        self.range = None if levels == 256 else (-zero * float(scale), (levels - 1 - zero) * float(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of the integers."""
        if self.range is not None:
            x = x.clamp(*self.range)
        result: Tensor = torch.ops.zoo.quantize_dequantize(x, self.scale, self.zero)
        return result


class FloatActivation(nn.Module):
    """Round to a grid in float, by operators that every engine has, to the same bits as `Grid.quantize`."""

    def __init__(self, grid: Grid, scale: Tensor) -> None:
        super().__init__()
        self.grid = grid
        self.kept = len(grid.constants(scale))
        for place, constant in enumerate(grid.constants(scale)):
            self.register_buffer(f"constant{place}", constant)

    def forward(self, x: Tensor) -> Tensor:
        """Return the nearest levels."""
        constants: Constants = tuple(self.get_buffer(f"constant{place}") for place in range(self.kept))
        low, high = self.grid.numerators[0], self.grid.numerators[-1]
        if self.grid.uniform:
            return cast(Tensor, x.div(constants[0]).round().clamp(low, high) * constants[0])
        if len(self.grid.numerators) <= 4:
            return self._by_comparison(x, constants)
        index = (x * constants[0]).ceil().clamp(2 * low, 2 * high) - 2 * low
        return cast(Tensor, constants[1][index.to(torch.int64)])

    def _by_comparison(self, x: Tensor, constants: Constants) -> Tensor:
        *thresholds, unit = constants
        numbers = self.grid.numerators
        total = torch.full_like(x, numbers[0])
        for threshold, before, after in zip(thresholds, numbers, numbers[1:], strict=False):
            total = total + (x > threshold).to(x.dtype) * (after - before)
        return cast(Tensor, total * unit)


def define_operators() -> None:
    """Tell torch the two operators that stand for ONNX's; they run here too, so that a prepared network can be checked."""
    if hasattr(torch.ops.zoo, "dequantize"):
        return

    @torch.library.custom_op("zoo::dequantize", mutates_args=())
    def dequantize(stored: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        around = (-1, *[1] * (stored.dim() - 1)) if scale.dim() else ()
        return (stored.to(torch.int32) - zero.to(torch.int32).view(around)).float() * scale.view(around)

    @torch.library.custom_op("zoo::quantize_dequantize", mutates_args=())
    def quantize_dequantize(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return ((x / scale).round() + zero.float()).clamp(0, 255).sub(zero.float()) * scale

    dequantize.register_fake(lambda stored, scale, zero, bits: torch.empty_like(stored, dtype=torch.float32))
    quantize_dequantize.register_fake(lambda x, scale, zero: torch.empty_like(x))
