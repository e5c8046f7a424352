"""Substitutes of the same architecture with other weights, for the controls that ask whether an attack needs its substitute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["shuffle", "sign", "nudge"]
NUDGE = 1e-3
"""Size of a nudge, in standard deviations of a tensor's weights."""
RIDGE = 0.1
SHARPNESS = 10.0
"""Distance of the right logit from the others that the refitted classifier aims at."""
BATCH = 50


@dataclass(frozen=True)
class Change:
    """What is done to the weights of a substitute.

    `shuffle` moves the weights of each tensor to other places of it and `sign` flips half of their signs: the statistics of each
    tensor stay, what was learned goes. The classifier is then fitted to the sample, so that the network is right about it.
    `nudge` adds noise too small to matter.
    """

    kind: Kind
    seed: int
    sample: Sequence[int] = ()
    """Places of the images that a decoy's classifier is fitted to."""


def apply(net: nn.Module, change: Change, images: Tensor, labels: Tensor) -> None:
    """Change a network that maps [0, 1] pixels to logits, in place.

    Args:
        net: the network, loaded, in evaluation mode.
        change: what to do.
        images: (N, C, H, W) uint8, all images of the suite.
        labels: (N,) their classes.
    """
    import torch

    generator = torch.Generator().manual_seed(change.seed)
    weights = [t for t in net.state_dict().values() if t.is_floating_point() and t.dim() > 1]
    with torch.no_grad():
        for weight in weights:
            if change.kind == "shuffle":
                weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight))
            elif change.kind == "sign":
                weight.mul_(torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1)
            else:
                weight.add_(NUDGE * weight.std() * torch.randn(weight.shape, generator=generator))
        if change.kind != "nudge":
            index = torch.as_tensor(list(change.sample))
            _fit(net, images[index], labels[index])


def _fit(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Fit the classifier, the last linear or 1x1 convolutional layer, to images by ridge regression."""
    import torch
    from torch import nn

    last = [part for part in net.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    classes = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    seen: list[Tensor] = []

    def see(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # maps are averaged over their places, as after them
        found = inputs[0].detach()
        seen.append(found.mean((2, 3)) if found.dim() == 4 else found)

    handle = last.register_forward_pre_hook(see)
    try:
        for start in range(0, len(images), BATCH):
            net(images[start : start + BATCH].float() / 255)
    finally:
        handle.remove()
    features = torch.cat(seen).double()
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    z = (features - mean) / scale
    places = labels + int(getattr(net, "label_offset", 0))
    wanted = SHARPNESS * torch.nn.functional.one_hot(places, classes).double()
    wanted -= wanted.mean(1, keepdim=True)
    n, width = z.shape
    if n < width:  # the same solution, by the smaller system
        solution = z.T @ torch.linalg.solve(z @ z.T + RIDGE * torch.eye(n).double(), wanted)
    else:
        solution = torch.linalg.solve(z.T @ z + RIDGE * torch.eye(width).double(), z.T @ wanted)
    weight = (solution / scale[:, None]).T
    parametrized = getattr(last, "parametrizations", None)
    place = parametrized.weight.original if parametrized is not None and "weight" in parametrized else last.weight
    place.copy_(weight.to(place.dtype).view_as(place))
    if last.bias is not None:
        last.bias.copy_((-(weight @ mean)).to(last.bias.dtype))
