"""A frozen network at its fastest: norms inside the convolutions, layouts that suit the device, nothing changed for good."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import UserError
from zoo.quant.fold import pairs as pairs_of
from zoo.quant.fold import probe
from zoo.quant.modules import ActivationQuantizer, _version

_CONVOLUTIONS = ("Conv2d", "ParametrizedConv2d")
_NORMS = ("BatchNorm2d", "BatchNormAct2d")
_TOLERANCE = 1e-3
"""Largest change of an output, as a share of the largest output, that rounding may make."""

_known: WeakKeyDictionary[nn.Module, tuple[tuple[nn.Module, _BatchNorm], ...]] = WeakKeyDictionary()


class _Convolution:
    """The forward pass of a convolution and the normalisation that follows it: y = conv(x, w * f) + (b - mean) * f + beta.

    f = gamma / sqrt(var + eps) is computed in float64. Products are kept as long as neither the weight that the layer
    computes with (quantised or not, as the state says) nor the statistics change.
    """

    def __init__(self, layer: nn.Module, norm: _BatchNorm | None, layout: torch.memory_format) -> None:
        self.layer = cast(nn.Conv2d, layer)
        self.norm = norm
        self.layout = layout
        self._kept: dict[int, tuple[Any, Tensor, Tensor | None]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised output."""
        weight = self.layer.weight
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        key = (dtype, _version(weight), *(_version(part) for part in self._statistics()))
        known = self._kept.get(weight.data_ptr())
        if known is None or known[0] != key:
            with torch.no_grad():
                scaled, shift = self._parts(weight)
            known = (key, scaled.to(dtype), None if shift is None else shift.to(dtype))
            self._kept[weight.data_ptr()] = known
            while len(self._kept) > 2:  # quantised and not
                self._kept.pop(next(iter(self._kept)))
        output: Tensor = self.layer._conv_forward(x, known[1], known[2])
        return output

    def _statistics(self) -> list[Tensor]:
        if self.norm is None:
            return []
        found = (self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)
        return [part for part in found if part is not None]

    def _parts(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        bias, norm = self.layer.bias, self.norm
        if norm is None:
            return weight.detach().contiguous(memory_format=self.layout), bias
        factor = (cast(Tensor, norm.running_var).double() + norm.eps).rsqrt()
        if norm.affine:
            factor = factor * norm.weight.double()
        shift = -cast(Tensor, norm.running_mean).double()
        shift = (shift if bias is None else shift + bias.double()) * factor
        if norm.affine:
            shift = shift + norm.bias.double()
        scaled = (weight.double() * factor.view(-1, 1, 1, 1)).to(weight.dtype)
        return scaled.contiguous(memory_format=self.layout), shift.to(weight.dtype)


class _Rest:
    """What a norm does besides normalising: nothing, or the drop and the activation of timm's `BatchNormAct2d`."""

    def __init__(self, norm: nn.Module) -> None:
        self.parts = [part for part in norm.children() if not isinstance(part, nn.Identity)]

    def __call__(self, x: Tensor) -> Tensor:
        """Return x after the parts."""
        for part in self.parts:
            x = part(x)
        return x


@contextmanager
def folded(model: nn.Module, keep: Collection[str] = (), channels_last: bool = False) -> Iterator[None]:
    """Within the context, each batch normalisation that directly follows a convolution is part of it.

    For networks whose parameters are fixed, in evaluation mode. Nothing but the last bits of a result changes, and weights,
    names and state dict stay as they are: the two layers are told to compute otherwise, and told back at the end. Which ones
    can be folded is found once, by running the network on a random image; a network that cannot run on one is left alone.

    Args:
        model: the network.
        keep: dotted names of layers whose own output is wanted, such as feature layers; these are not folded.
        channels_last: keep convolutions' weights in this layout, for inputs that have it.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if model not in _known:
        _known[model] = _foldable(model)
    wanted = {module for name, module in model.named_modules() if _listed(name, keep)}
    pairs = [(layer, norm) for layer, norm in _known[model] if layer not in wanted]
    with ExitStack() as stack:
        for layer, norm in pairs:
            _override(stack, layer, _Convolution(layer, norm, layout))
            _override(stack, norm, _Rest(norm))
        if channels_last:
            for layer in model.modules():
                if type(layer).__name__ in _CONVOLUTIONS:
                    _override(stack, layer, _Convolution(layer, None, layout))
        yield


def _listed(name: str, keep: Collection[str]) -> bool:
    return any(name == each or name.endswith(f".{each}") for each in keep)


def _override(stack: ExitStack, module: nn.Module, forward: Any) -> None:
    """Give one module another forward pass until the stack unwinds; the first to ask is served."""
    if "forward" not in vars(module):
        module.forward = forward
        stack.callback(vars(module).pop, "forward", None)


@torch.no_grad()
def _foldable(model: nn.Module) -> tuple[tuple[nn.Module, _BatchNorm], ...]:
    """Return the (convolution, norm) pairs that can be folded without a change of the output but in its last bits."""
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return ()
    quantizers = [part for part in model.modules() if isinstance(part, ActivationQuantizer) and part.enabled]
    with ExitStack() as stack:
        for quantizer in quantizers:  # rounding would turn a last bit into a whole level
            quantizer.enabled = False
            stack.callback(setattr, quantizer, "enabled", True)
        try:
            x = probe(model)
        except UserError:
            return ()
        found = tuple((layer, norm) for _, layer, norm in pairs_of(model, x, _CONVOLUTIONS) if _plain(norm))
        expected = model.forward(x)
        if not _equal(model, x, expected, found):  # a convolution's output is used elsewhere too
            found = tuple(pair for pair in found if _equal(model, x, expected, (pair,)))
            found = found if _equal(model, x, expected, found) else ()
    return found


def _plain(norm: _BatchNorm) -> bool:
    return type(norm).__name__ in _NORMS


def _equal(model: nn.Module, x: Tensor, expected: Tensor, pairs: tuple[tuple[nn.Module, _BatchNorm], ...]) -> bool:
    with ExitStack() as stack:
        for layer, norm in pairs:
            _override(stack, layer, _Convolution(layer, norm, torch.contiguous_format))
            _override(stack, norm, _Rest(norm))
        drift = (model.forward(x) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return bool(drift <= _TOLERANCE)
