"""Turn any convolutional network into a quantised one, in place and without editing its architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from zoo.entry import QuantSpec, State
from zoo.errors import UserError
from zoo.quant import modules as Q
from zoo.quant.fold import fold_batchnorm
from zoo.quant.rounding import DroppingActivation, RoundedWeight

STATES: tuple[State, ...] = ("fp", "w", "a", "wa")

WeightMaker = Callable[[int, Tensor], Q.WeightQuantizer]
ActivationMaker = Callable[[int], Q.ActivationQuantizer]

METHODS: dict[str, tuple[tuple[int, ...], WeightMaker, ActivationMaker]] = {
    "apot": ((2, 3, 4, 5, 6), lambda bits, w: Q.ApotWeight(bits), Q.ApotActivation),
    "qdrop": ((2, 3, 4, 5, 6, 7, 8), RoundedWeight, DroppingActivation),
    "uniform": ((2, 3, 4, 5, 6, 7, 8), Q.UniformWeight, Q.UniformActivation),
}
"""Bitwidths of each method, and what makes its quantisers."""

EDGE: tuple[tuple[int, ...], WeightMaker, ActivationMaker] = (
    (),
    lambda bits, w: Q.EdgeWeight(bits),
    Q.ActivationQuantizer,
)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers by name, in the order of definition."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)}


def weight_quantizers(model: nn.Module) -> dict[str, Q.WeightQuantizer]:
    """Return the quantiser of each quantised layer's weight, by the name of the layer."""
    found = {}
    for name, layer in layers(model).items():
        if parametrize.is_parametrized(layer, "weight"):
            last = cast(nn.ModuleDict, layer.parametrizations)["weight"]
            quantizers = [part for part in cast(nn.ModuleList, last) if isinstance(part, Q.WeightQuantizer)]
            if quantizers:
                found[name] = quantizers[-1]
    return found


def latent_weight(layer: nn.Module) -> nn.Parameter:
    """Return the trainable weight behind a layer's quantiser, or its plain weight."""
    if parametrize.is_parametrized(layer, "weight"):
        parametrizations = cast(Any, layer.parametrizations)
        return cast(nn.Parameter, parametrizations["weight"].original)
    return cast(nn.Parameter, layer.weight)


def activation_quantizers(model: nn.Module) -> dict[str, Q.ActivationQuantizer]:
    """Return the input quantiser of each layer that has one, by the name of the layer."""
    suffix = ".input_quantizer"
    return {n.removesuffix(suffix): m for n, m in model.named_modules() if isinstance(m, Q.ActivationQuantizer)}


def is_quantized(model: nn.Module) -> bool:
    """Say whether the model has quantisers."""
    return any(isinstance(m, Q.WeightQuantizer | Q.ActivationQuantizer) for m in model.modules())


def states(model: nn.Module) -> tuple[State, ...]:
    """Return the states that `set_state` accepts for this model: all four, or without full-precision weights "w", "wa"."""
    if not is_quantized(model):
        return ("fp",)
    fixed = any(isinstance(m, Q.FixedWeight) for m in model.modules())
    return ("w", "wa") if fixed else STATES


def edge_layers(model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the first and the last layers.

    They are what timm's `pretrained_cfg` or the attributes `first_conv` and `classifier` name; where those are missing or
    name no convolution or linear layer, the first and the last one defined.
    """
    known = list(layers(model))
    if not known:
        raise UserError(f"{type(model).__name__} has no convolution or linear layer to quantise")
    config = getattr(model, "pretrained_cfg", None) or {}
    found = []
    for key, fallback in (("first_conv", known[0]), ("classifier", known[-1])):
        named = getattr(model, key, None)
        if not isinstance(named, str):
            named = config.get(key) or ()
        names = tuple(n for n in ((named,) if isinstance(named, str) else named) if n in known)
        found.append(names or (fallback,))
    return found[0], found[1]


def check_spec(spec: QuantSpec) -> None:
    """Raise UserError unless the method exists and has the bitwidths that `spec` asks for."""
    if spec.method not in METHODS:
        raise UserError(f"unknown quantisation method {spec.method!r}; choose one of {', '.join(sorted(METHODS))}")
    choices = METHODS[spec.method][0]
    for field, bits in (("w_bits", spec.w_bits), ("a_bits", spec.a_bits)):
        if bits not in (*choices, 32):
            hint = "; for 7 or 8 bits use method 'uniform', for 1 bit 'xnor' or 'bnn'" if spec.method == "apot" else ""
            raise UserError(
                f"method {spec.method!r} has no {field}={bits}: choose one of {', '.join(map(str, choices))}, "
                f"or 32 for full precision{hint}"
            )
    if not (2 <= spec.edge_bits <= 16 or spec.edge_bits == 32):
        raise UserError(f"edge_bits={spec.edge_bits} is not possible: choose 2 to 16, or 32 for full precision")


def quantize(
    model: nn.Module, spec: QuantSpec, *, first: tuple[str, ...] | None = None, last: str | None = None
) -> nn.Module:
    """Attach quantisers to every convolution and linear layer of `model`, in place, and return it.

    The first and the last layer get weights of `edge_bits` and keep full-precision inputs. Scales hold defaults until
    `calibrate`, or until calibrated weights are loaded.

    Args:
        model: Any network of `nn.ConvNd` and `nn.Linear` layers.
        spec: Method and bitwidths; 32 bits leave weights or activations alone.
        first: Names of the first layers, where `edge_layers` would not find them.
        last: Name of the last layer, likewise.

    Raises:
        UserError: No such method or bitwidth, no such layer, weights that are not finite, a model already quantised.
    """
    check_spec(spec)
    if is_quantized(model):
        raise UserError("the model is quantised already: quantise a fresh full-precision model instead")
    firsts, lasts = edge_layers(model)
    firsts, lasts = first or firsts, (last,) if last else lasts
    edges = {*firsts, *lasts}
    targets = layers(model)
    for name in sorted(edges - targets.keys()):
        raise UserError(f"no convolution or linear layer is called {name!r}; the model has {', '.join(targets)}")
    for name, layer in targets.items():
        if not bool(torch.isfinite(cast(Tensor, layer.weight)).all()):
            raise UserError(f"the weight of layer {name!r} holds NaN or infinite values: train or load it anew")
    if spec.method == "qdrop":
        fold_batchnorm(model)
    for name, layer in targets.items():
        if name not in edges:
            _attach(layer, name, spec.method, spec.w_bits, spec.a_bits)
        elif spec.method != "qdrop":
            _attach(layer, name, "edge", spec.edge_bits, 32)
        else:  # QDrop learns the rounding of edge layers too, and quantises the input of the last one
            _attach(layer, name, "qdrop", spec.edge_bits, 32 if name in firsts else spec.edge_bits)
    return model


def _attach(layer: nn.Module, name: str, method: str, w_bits: int, a_bits: int) -> None:
    """Give one layer its quantisers; 32 bits give none."""
    weight = cast(Tensor, layer.weight)
    _, weight_maker, activation_maker = METHODS[method] if method != "edge" else EDGE
    if w_bits != 32:
        quantizer = weight_maker(w_bits, weight).to(weight.device).train(layer.training)
        parametrize.register_parametrization(layer, "weight", quantizer)
    if a_bits != 32:
        activation = activation_maker(a_bits).to(weight.device).train(layer.training)
        activation.layer = name
        layer.add_module("input_quantizer", activation)
        layer.register_forward_pre_hook(Q.quantize_input)


def set_state(model: nn.Module, state: State) -> None:
    """Choose what is quantised from now on: nothing ("fp"), weights ("w"), activations ("a"), or both ("wa").

    Raises:
        UserError: No such state, a model without quantisers, or one whose full-precision weights are not there.
    """
    if state not in STATES:
        raise UserError(f"unknown state {state!r}; choose one of {', '.join(STATES)}")
    possible = states(model)
    if state not in possible:
        if possible == ("fp",):
            raise UserError(f"state {state!r} needs a quantised model, but this one is not")
        Q.FixedWeight(1).switch(False)
    for part in model.modules():
        if isinstance(part, Q.WeightQuantizer):
            part.switch("w" in state)
        elif isinstance(part, Q.ActivationQuantizer):
            part.enabled = "a" in state


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

    Weight scales come first. Then one forward pass sets the range of each layer's input, from what the layers before it
    give when quantised, in the states that are switched on. Batch normalisation uses the statistics of `x` in that pass
    where weights are low-bit, since standardised weights change the scale of every layer; its running statistics stay as
    they are, so train, or call `reestimate_batchnorm`, before evaluating.

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
    weights = weight_quantizers(model)
    for name, layer in layers(model).items():
        if name in weights:
            weights[name].initialize(latent_weight(layer))
    quantizers = activation_quantizers(model)
    handles = []
    seen: set[nn.Module] = set()
    for quantizer in quantizers.values():
        handles.append(quantizer.register_forward_pre_hook(lambda part, args: _calibrate_one(part, args, signed, seen)))
    moments = [(m, m.momentum) for m in _batchnorms(model)]
    try:
        with _modes(model), torch.no_grad():
            model.eval()
            if any(isinstance(q, Q.ApotWeight) and q.enabled for q in weights.values()):
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


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Open a session in which parameters are fixed, and quantise each weight at most once.

    On entry parameters stop requiring gradients; on exit every flag is as before. States may be switched inside: the kept
    weight is the quantised one, and the state decides whether it is used. Loading weights inside is noticed; editing them
    through `.data` is not.

    Raises:
        UserError: The model is in training mode, whose forward pass would change it.
    """
    if model.training:
        raise UserError("frozen needs a model in evaluation mode: call model.eval() first")
    parameters = [(p, p.requires_grad) for p in model.parameters()]
    quantizers = [m for m in model.modules() if isinstance(m, Q.WeightQuantizer | Q.ActivationQuantizer)]
    opened = [quantizer for quantizer in quantizers if not quantizer.session]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for quantizer in opened:
            quantizer.freeze(True)
        yield model
    finally:
        for parameter, required in parameters:
            parameter.requires_grad_(required)
        for quantizer in opened:
            quantizer.freeze(False)
