"""Layer normalisation before quantisation: channels of very different range are brought to one, and nothing changes.

What a LayerNorm gives has channels whose ranges differ by a factor of tens, so that one step for all wastes most of its
levels. The layers around it can carry a scale and a shift of each channel instead, and then one step serves all channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

_FOLLOWERS = (("norm1", "attn.qkv"), ("norm2", "mlp.fc1"), ("norm", "mlp.fc1"))
"""A norm, and the one layer that reads it, in the blocks of timm's ViT, Swin and ConvNeXt."""
_TOLERANCE = 1e-3
"""Largest change of an output, as a share of the largest output, that rounding may make."""


@torch.no_grad()
def even_layernorms(model: nn.Module, x: Tensor, bits: int) -> list[str]:
    """Move each channel's scale and shift from a LayerNorm into the linear layer after it, and return the norms' names.

    Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers", ICCV 2023,
    Sec. 3.2: with steps s and zeros z of the channels and their means s', z', r1 = s / s' and r2 = z - z', the norm's
    gamma becomes gamma / r1 and its beta (beta + s * r2) / r1; the layer's weight becomes W * r1 and its bias
    b - W (s * r2). In full precision the network computes what it did before, but for rounding.

    Args:
        model: in evaluation mode, not quantised yet.
        x: (N, C, H, W), the images whose ranges count.
        bits: of the activations.
    """
    pairs = dict(_pairs(model))
    ranges: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [norm.register_forward_hook(_watch(name, ranges)) for name, (norm, _) in pairs.items()]
    try:
        before = model(x)
    finally:
        for handle in handles:
            handle.remove()
    done = []
    for name, (norm, layer) in pairs.items():
        if name not in ranges:
            continue
        kept = [part.detach().clone() for part in (norm.weight, norm.bias, layer.weight, layer.bias)]
        _move(norm, layer, *ranges[name], 2**bits - 1)
        if float((model(x) - before).abs().max()) <= _TOLERANCE * float(before.abs().max()):
            done.append(name)
            continue
        for part, value in zip((norm.weight, norm.bias, layer.weight, layer.bias), kept, strict=True):
            part.copy_(value)  # something else reads this norm, or pads it with zeros
    return done


def _pairs(model: nn.Module) -> Iterator[tuple[str, tuple[nn.LayerNorm, nn.Linear]]]:
    """Yield the name of each such norm that scales and shifts, with it and the layer that reads it."""
    for name, block in model.named_modules():
        for norm_name, layer_name in _FOLLOWERS:
            norm, layer = _part(block, norm_name), _part(block, layer_name)
            whole = isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and norm.bias is not None
            if whole and isinstance(layer, nn.Linear) and layer.bias is not None:
                yield f"{name}.{norm_name}".lstrip("."), (cast(nn.LayerNorm, norm), layer)


def _part(block: nn.Module, path: str) -> Any:
    found: Any = block
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _watch(name: str, ranges: dict[str, tuple[Tensor, Tensor]]) -> Any:
    def hook(norm: nn.Module, args: Any, output: Tensor) -> None:
        rows = output.flatten(0, -2)
        ranges[name] = rows.amin(0), rows.amax(0)

    return hook


def _move(norm: nn.LayerNorm, layer: nn.Linear, low: Tensor, high: Tensor, top: int) -> None:
    step = (high - low).clamp_min(1e-8 * float((high - low).max().clamp_min(1e-8))) / top
    zero = -low / step
    ratio, shift = step / step.mean(), step * (zero - zero.mean())
    norm.weight.div_(ratio)
    norm.bias.add_(shift).div_(ratio)
    layer.bias.sub_(layer.weight @ shift)
    layer.weight.mul_(ratio)
