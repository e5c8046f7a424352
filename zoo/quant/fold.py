"""Folding batch normalisation into the convolution before it, found by running the network once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import UserError

# Subclasses that compute something else from their weight, such as standardised convolutions, must not be folded.
_FOLDABLE = ("Conv1d", "Conv2d", "Conv3d", "Conv2dSame", "Linear")
_SIDES = (32, 16, 224, 299)  # tried in turn where the network does not say what it is fed


def probe(model: nn.Module) -> Tensor:
    """Return a random image that the network accepts: of the size timm states, or the first common one that works.

    Raises:
        UserError: None of them runs through the network.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise UserError(f"{type(model).__name__} has no convolution: give an example input")
    stated = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    sides = (*([stated[-1]] if stated else []), *_SIDES)
    for side in sides:
        x = torch.rand(1, first.in_channels, side, side, generator=torch.Generator().manual_seed(0))
        x = x.to(first.weight)
        try:
            model.forward(x)  # what others hooked to the model itself is not theirs to see
        except (RuntimeError, ValueError):  # the size does not suit the network
            continue
        return x
    raise UserError(
        f"{type(model).__name__} accepts none of the sides {', '.join(map(str, sides))}: give an example input"
    )


def pairs(model: nn.Module, x: Tensor, kinds: Collection[str] = _FOLDABLE) -> list[tuple[str, nn.Module, _BatchNorm]]:
    """Return (name of the norm, layer, norm) wherever a norm was fed a layer's own output and neither is used twice.

    Layers are of the given kinds, which are names of classes.
    """
    sources: dict[int, nn.Module] = {}
    alive: list[Tensor] = []  # ids are only unique among living tensors
    found: list[tuple[str, nn.Module, _BatchNorm]] = []
    handles = []

    def remember(layer: nn.Module, args: object, output: Tensor) -> None:
        sources[id(output)] = layer
        alive.append(output)

    def match(name: str, norm: _BatchNorm, value: Tensor) -> None:
        if id(value) in sources and norm.track_running_stats:
            found.append((name, sources[id(value)], norm))

    for name, module in model.named_modules():
        if type(module).__name__ in kinds:
            handles.append(module.register_forward_hook(remember))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(lambda m, args, name=name: match(name, m, args[0])))
    try:
        model.forward(x)
    finally:
        for handle in handles:
            handle.remove()
    uses = Counter(part for _, *parts in found for part in parts)
    return [(name, layer, norm) for name, layer, norm in found if uses[layer] == uses[norm] == 1]


@torch.no_grad()
def fold_batchnorm(model: nn.Module, x: Tensor | None = None, *, check: bool = False) -> list[str]:
    """Fold every batch normalisation that directly follows a convolution or linear layer, in place.

    w' = w * gamma / sqrt(var + eps), b' = beta + (b - mean) * gamma / sqrt(var + eps). The norm becomes an identity, or
    what timm's `BatchNormAct2d` does besides: its drop and activation. Norms that follow anything else stay.

    Args:
        model: In evaluation mode while it is run here.
        x: An example input; `probe` finds one by default.
        check: Compare the output before and after.

    Returns:
        Names of the folded norms.

    Raises:
        UserError: With `check`, the output changed: a convolution's output is used elsewhere than in its norm.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return []
    training = {module: module.training for module in model.modules()}
    model.eval()
    x = probe(model) if x is None else x
    before = model(x) if check else None
    found = pairs(model, x)
    for name, layer, norm in found:
        _fold(layer, norm)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, _remainder(norm))
    if before is not None:
        drift = float((model(x) - before).abs().max() / before.abs().max().clamp_min(1e-12))
        if not drift <= 1e-2:
            raise UserError(
                f"folding batch normalisation changes the output of {type(model).__name__} by {drift:.1%}: a convolution's "
                "output is used outside its norm, which post-training quantisation cannot handle"
            )
    for module, mode in training.items():
        module.training = mode
    return [name for name, _, _ in found]


def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    weight = cast(nn.Parameter, layer.weight)
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    factor = (var + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight
    weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
    bias = (cast(Tensor, layer.bias) - mean if layer.bias is not None else -mean) * factor
    if norm.affine:
        bias += norm.bias
    layer.bias = nn.Parameter(bias)


def _remainder(norm: nn.Module) -> nn.Module:
    """What a norm does besides normalising: nothing, or the drop and the activation of timm's `BatchNormAct2d`."""
    rest = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    return nn.Identity() if not rest else rest[0] if len(rest) == 1 else nn.Sequential(*rest)
