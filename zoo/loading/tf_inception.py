"""Inceptions converted from TensorFlow-Slim: layers are paired with timm's by their place in the network.

Slim names a layer by stage, branch and position, as in `InceptionV3/InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5`; timm defines
its layers in that same order but names them otherwise. The nets have 1001 classes, of which the first is the background.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.errors import UserError

CLASSES = 1001
_NORM = "/BatchNorm/FusedBatchNorm"
_NORM_PARTS = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_STAGES = {"Repeat": ("5z", 0), "Repeat_1": ("6z", 0), "Repeat_2": ("7a", 1), "Block8": ("7a", 2)}

Place = tuple[str, int, int, int, str]


def _place(layer: str) -> Place:
    """Return (stage, part of the stage, block, branch, position), which sorts as timm defines the layers."""
    parts = [part for part in layer.split("/") if part not in ("Conv2D", "MatMul")]
    stage, rank, block, branch = "", 0, 0, 9 if "block" in layer or "Block8" in layer else 0
    for part in parts:
        if part in _STAGES:
            stage, rank = _STAGES[part]
        elif not stage and (found := re.match(r"(?:Mixed|Conv2d)_(\d[a-z])", part)):
            stage = found[1]
        elif found := re.fullmatch(r"block\d+_(\d+)", part):
            block = int(found[1])
        elif found := re.fullmatch(r"Branch_(\d)", part):
            branch = int(found[1])
    position = re.search(r"_(\d[a-z]_\dx\d)$", parts[-1])
    return stage, rank, block, branch, position[1] if position else ""


def _target(arch: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes that timm's network of that name expects, by key, in the order of definition."""
    from zoo._compat import ensure_torchvision

    ensure_torchvision()
    import timm

    with torch.device("meta"):
        net = timm.create_model(arch, num_classes=CLASSES)
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def convert(state: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Return the weights of timm's `arch` from those of a converted net, keyed by layer/part.

    Raises:
        UserError: The layers do not pair off, or differ in shape.
    """
    shapes = _target(arch)
    kept = {key: value for key, value in state.items() if "/AuxLogits/" not in key}
    ends = [key.removesuffix("/weights") for key in kept if key.endswith("/weights")]
    body = sorted((layer for layer in ends if "/Logits/" not in layer), key=_place)
    heads = [layer for layer in ends if "/Logits/" in layer]
    convs = [
        key.removesuffix(".weight") for key, shape in shapes.items() if key.endswith(".weight") and len(shape) == 4
    ]
    head = next(
        key.removesuffix(".weight") for key, shape in shapes.items() if shape[:1] == (CLASSES,) and len(shape) == 2
    )
    if len(body) != len(convs) or len(heads) != 1:
        raise UserError(
            f"the file has {len(body)} convolutions and {len(heads)} classifiers, timm's {arch} has {len(convs)} and 1: "
            "check that keymap and arch belong together"
        )
    result: dict[str, Tensor] = {}
    for layer, conv in zip((*body, *heads), (*convs, head), strict=True):
        result[f"{conv}.weight"] = _shaped(kept[f"{layer}/weights"], shapes[f"{conv}.weight"], layer)
        if f"{layer}/bias" in kept:
            result[f"{conv}.bias"] = kept[f"{layer}/bias"].flatten()
        norm = layer.removesuffix("/Conv2D") + _NORM
        if f"{norm}/mean" in kept:
            result |= _batchnorm(kept, norm, conv.removesuffix("conv") + "bn")
    return result


def _batchnorm(state: Mapping[str, Tensor], norm: str, target: str) -> dict[str, Tensor]:
    """Return the five tensors of a batch normalisation; Slim's Inceptions train no scale, which is then 1."""
    mean = state[f"{norm}/mean"]
    missing = {"scale": torch.ones_like(mean), "bias": torch.zeros_like(mean)}
    parts = {ours: state.get(f"{norm}/{theirs}", missing.get(theirs)) for theirs, ours in _NORM_PARTS.items()}
    if parts["running_var"] is None:
        raise UserError(f"the file lacks {norm}/var")
    named = {f"{target}.{name}": value for name, value in parts.items() if value is not None}
    return named | {f"{target}.num_batches_tracked": torch.tensor(0)}


def _shaped(weight: Tensor, shape: tuple[int, ...], layer: str) -> Tensor:
    """Fit a classifier stored as a 1x1 convolution or transposed; anything else must fit as it is."""
    if tuple(weight.shape) == shape:
        return weight
    if len(shape) == 2 and weight.dim() == 2 and tuple(weight.T.shape) == shape:
        return weight.T.contiguous()
    if len(shape) == 2 and weight.dim() == 4 and tuple(weight.flatten(1).shape) == shape:
        return weight.flatten(1)
    raise UserError(
        f"{layer} has shape {tuple(weight.shape)}, expected {shape}: check that keymap and arch belong together"
    )
