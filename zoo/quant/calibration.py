"""What a freshly quantised network needs before it runs: scales from data, and statistics for its new weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import UserError
from zoo.quant import modules as Q
from zoo.quant.convert import activation_quantizers, is_quantized, latent_weight, layers, weight_quantizers


def _batchnorms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def _modes(model: nn.Module) -> Iterator[None]:
    """Restore on exit which modules were in training mode."""
    training = {part: part.training for part in model.modules()}
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode


def calibrate(model: nn.Module, x: Tensor, *, signed: bool | None = None) -> None:
    """Set every scale from the weights and from one batch of network inputs.

    Weight scales come first. Then one pass sets the range of each layer's input, from what the layers before it give, in
    the states that are switched on.
    Batch normalisation uses the statistics of `x` in that pass where quantised weights have another scale than plain ones; its
    running statistics stay as they are, so train, or call `reestimate_batchnorm`, before evaluating.

    Args:
        model: A model from `quantize`.
        x: (N, C, H, W), a few dozen images as the network (not the wrapper around it) receives them.
        signed: Whether ranges include negative values; None lets each layer's data decide.

    Raises:
        UserError: No images, images that are not finite numbers, or negative input to a range forced to be unsigned.
    """
    if not is_quantized(model):
        raise UserError("calibrate needs a quantised model: call zoo.quant.quantize first")
    _check_images(x, "calibrate")
    weights, named = weight_quantizers(model), layers(model)
    for name, weight in weights.items():
        weight.initialize(latent_weight(named[name]))
    handles = []
    seen: set[nn.Module] = set()
    for quantizer in activation_quantizers(model).values():
        handles.append(quantizer.register_forward_pre_hook(lambda part, args: _calibrate_one(part, args, signed, seen)))
    moments = [(m, m.momentum) for m in _batchnorms(model)]
    try:
        with _modes(model), torch.no_grad():
            model.eval()
            if any(q.rescales and q.enabled for q in weights.values()):
                for norm, _ in moments:
                    norm.training, norm.momentum = True, 0.0
            model(x)
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in moments:
            norm.momentum = momentum


def _calibrate_one(quantizer: nn.Module, args: tuple[Any, ...], signed: bool | None, seen: set[nn.Module]) -> None:
    """Calibrate at the first call of a pass; a layer that is called again is widened to signed where it must be."""
    assert isinstance(quantizer, Q.ActivationQuantizer)
    if quantizer not in seen or (not quantizer.flags()[1] and bool(args[0].min() < 0)):
        quantizer.calibrate(args[0], signed)
    seen.add(quantizer)


def _check_images(x: Tensor, what: str) -> None:
    if x.dim() == 0 or x.numel() == 0:
        raise UserError(f"{what} got an empty batch of images: pass at least one")
    if not x.is_floating_point() or not bool(torch.isfinite(x).all()):
        raise UserError(f"{what} needs images as finite floating-point numbers, as the network receives them")


def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of batch normalisation by their plain average over `batches`.

    Low-bit weights and activations change the scale of every layer, so statistics from full precision are wrong for them.

    Raises:
        UserError: No batch was given.
    """
    norms = _batchnorms(model)
    moments = [(norm, norm.momentum) for norm in norms]
    count = 0
    try:
        with _modes(model), torch.no_grad():
            model.eval()
            for norm in norms:
                norm.training, norm.momentum = True, None
            for x in batches:
                _check_images(x, "reestimate_batchnorm")
                if count == 0:
                    for norm in norms:
                        norm.reset_running_stats()
                model(x)
                count += 1
    finally:
        for norm, momentum in moments:
            norm.momentum = momentum
    if count == 0:
        raise UserError("reestimate_batchnorm got no batches: pass at least one")
