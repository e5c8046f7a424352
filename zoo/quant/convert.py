"""Turn any convolutional network into a quantised one, in place and without editing its architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from zoo.errors import UserError, did_you_mean
from zoo.quant import classic
from zoo.quant import modules as Q
from zoo.quant.attention import quantize_attention
from zoo.quant.fold import fold_batchnorm
from zoo.quant.rounding import DroppingActivation, RoundedWeight
from zoo.registry.bitwidths import bitwidth_problem
from zoo.registry.entry import QuantSpec, State

STATES: tuple[State, ...] = ("fp", "w", "a", "wa")

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)

WeightMaker = Callable[[int, Tensor], Q.WeightQuantizer]
ActivationMaker = Callable[[int], Q.ActivationQuantizer]

METHODS: dict[str, tuple[WeightMaker, ActivationMaker]] = {
    "apot": (lambda bits, w: Q.ApotWeight(bits), Q.ApotActivation),
    "bnn": (classic.BnnWeight, classic.SignActivation),
    "dorefa": (classic.DorefaWeight, classic.DorefaActivation),
    "pact": (classic.DorefaWeight, classic.PactActivation),
    "qdrop": (RoundedWeight, DroppingActivation),
    "uniform": (Q.UniformWeight, Q.UniformActivation),
    "xnor": (classic.XnorWeight, classic.SignActivation),
}
"""What makes a method's quantisers; `zoo.registry.bitwidths` says which bitwidths it has."""


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
        raise UserError(
            f"unknown quantisation method {spec.method!r}{did_you_mean(spec.method, METHODS)}; "
            f"choose one of {', '.join(sorted(METHODS))}"
        )
    problem = bitwidth_problem(spec.method, spec.w_bits, spec.a_bits, spec.edge_bits)
    if problem is not None:
        raise UserError(problem)


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
        w_bits, a_bits = _edge_bits(spec, name in firsts) if name in edges else (spec.w_bits, spec.a_bits)
        _attach(layer, name, spec.method, w_bits, a_bits, edge=name in edges)
    if spec.method == "qdrop" and spec.a_bits != 32:
        quantize_attention(model, spec.a_bits)
    if not any(isinstance(module, _NORMS) for module in model.modules()):
        for name, quantizer in weight_quantizers(model).items():
            if isinstance(quantizer, Q.ApotWeight):
                quantizer.keep_scale(latent_weight(targets[name]))
    return model


def _edge_bits(spec: QuantSpec, first: bool) -> tuple[int, int]:
    """Return the bits of an edge layer's weight and input.

    Inputs stay in full precision, except that QDrop, and BNN with 1-bit edges, quantise the input of the last layer.
    """
    inputs_too = spec.method == "qdrop" or spec.edge_bits == 1
    return spec.edge_bits, 32 if first or not inputs_too or spec.a_bits == 32 else spec.edge_bits


def _attach(layer: nn.Module, name: str, method: str, w_bits: int, a_bits: int, *, edge: bool) -> None:
    """Give one layer its quantisers; 32 bits give none."""
    weight = cast(Tensor, layer.weight)
    weight_maker, activation_maker = METHODS[method]
    if w_bits != 32:
        plain = edge and method != "qdrop" and w_bits > 1  # QDrop learns the rounding of edge layers too
        quantizer = Q.EdgeWeight(w_bits) if plain else weight_maker(w_bits, weight)
        quantizer.to(weight.device).train(layer.training)
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
