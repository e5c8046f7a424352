"""Loss sharpness in the space of weights and in that of features (Eqs. 10 and 11, Table X).

After Keskar et al. (ICLR 2017) without their factor (|x_i| + 1): over an L-infinity box of half width eps,

    weights:   100 * (max_eta f(w + eta) - f(w)) / (1 + f(w)),        f the mean cross-entropy over the clean images
    features:  100 * (f(x) - min_eta f(x + eta)) / (1 + f(x)),        f of one adversarial image, then the mean over images

by 20 projected sign steps of 2.5 eps / 20 from eta = 0. The best eta met is kept, so that it is never negative. Open in the
paper and chosen here: that step, the start, the mean over an alternating substitute's states, images clipped to [0, 1], batch
normalisation left alone. The weight box stands around *effective* weights, those the layer computes with (dequantised, of
APoT after its normalisation), or around *latent* ones: a latent box of 5e-4 barely moves 2-bit codes, and the two are
different quantities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness.analyze.study import Row, Study, in_state, losses, mean_interval
from zoo.errors import UserError
from zoo.quant import is_quantized, latent_weight, states, weight_quantizers
from zoo.quant.convert import layers

Space = Literal["effective", "latent", "feature"]
STEPS = 20
FACTOR = 2.5
EPS = (5e-4, 1e-3)
REPORTED = {
    ("resnet34", "weight"): (60.8154, 125.7775),
    ("resnet34", "feature"): (71.8195, 146.1035),
    ("resnet34-2bit", "weight"): (24.3069, 52.1593),
    ("resnet34-2bit", "feature"): (25.6317, 60.5207),
    ("resnet34-2bit-qaa", "weight"): (25.3686, 51.9040),
    ("resnet34-2bit-qaa", "feature"): (27.4976, 58.6584),
    ("vgg16", "weight"): (76.9116, 172.1912),
    ("vgg16", "feature"): (91.3237, 195.1994),
    ("vgg16-2bit-qdrop", "weight"): (38.7024, 86.0094),
    ("vgg16-2bit-qdrop", "feature"): (42.7450, 101.1433),
    ("vgg16-2bit-qdrop-qaa", "weight"): (30.8196, 69.5630),
    ("vgg16-2bit-qdrop-qaa", "feature"): (25.6498, 58.3942),
}
"""The paper's Table X, at eps 5e-4 and 1e-3; it does not say which weights its box is around."""

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Hands over (images in [0, 1], labels) anew at each call."""


def weight_sharpness(net: nn.Module, weights: Sequence[nn.Parameter], batches: Batches, eps: float) -> float:
    """Return the sharpness in the box around the given weights; the network is as before when it returns.

    Args:
        net: a network in evaluation mode.
        weights: what the box is around.
        batches: the images that the mean loss is taken over.
        eps: half width of the box.
    """
    start = [w.detach().clone() for w in weights]
    gradients = [(p, p.requires_grad) for p in net.parameters()]
    for parameter, _ in gradients:
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        base = best = _mean_loss(net, batches)
        for _ in range(STEPS):
            slope = _slopes(net, weights, batches)
            with torch.no_grad():
                for w, w0, g in zip(weights, start, slope, strict=True):
                    w.copy_(torch.clamp(w + FACTOR * eps / STEPS * g.sign(), w0 - eps, w0 + eps))
            best = max(best, _mean_loss(net, batches))
    finally:
        with torch.no_grad():
            for w, w0 in zip(weights, start, strict=True):
                w.copy_(w0)
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
    return 100 * (best - base) / (1 + base)


@torch.no_grad()
def _mean_loss(net: nn.Module, batches: Batches) -> float:
    total, count = 0.0, 0
    for x, y in batches():
        total += float(losses(net, x, y).double().sum())
        count += len(x)
    return total / count


def _slopes(net: nn.Module, weights: Sequence[nn.Parameter], batches: Batches) -> list[Tensor]:
    found = [torch.zeros_like(w) for w in weights]
    for x, y in batches():
        each = torch.autograd.grad(losses(net, x, y).sum(), list(weights), allow_unused=True)
        found = [total if g is None else total + g for total, g in zip(found, each, strict=True)]
    return found


def feature_sharpness(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return the sharpness (N,) of each adversarial image x (N, C, H, W) in [0, 1], in a box that is clipped to [0, 1]."""
    with torch.no_grad():
        base = losses(net, x, y).double()
    best, z = base.clone(), x.clone()
    for _ in range(STEPS):
        z = z.detach().requires_grad_(True)
        loss = losses(net, z, y)
        (g,) = torch.autograd.grad(loss.sum(), z)
        with torch.no_grad():
            best = torch.minimum(best, loss.double())
            z = torch.clamp(torch.maximum(torch.minimum(z - FACTOR * eps / STEPS * g.sign(), x + eps), x - eps), 0, 1)
    with torch.no_grad():
        best = torch.minimum(best, losses(net, z, y).double())
    return 100 * (base - best) / (1 + base)


def bake(net: nn.Module) -> nn.Module:
    """Put the weights that quantised layers compute with in place of their quantisers, in the state that the network is in."""
    for name in weight_quantizers(net):
        layer = net.get_submodule(name)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return net


def boxed_weights(net: nn.Module, space: Space) -> list[nn.Parameter]:
    """Return the weights of convolutions and linear layers that the box is around.

    Raises:
        UserError: latent weights are asked for, and the file holds only low-bit codes.
    """
    if space == "latent" and "fp" not in states(net):
        raise UserError("its file holds low-bit codes alone: there are no latent weights to put a box around")
    found = []
    for layer in layers(net).values():
        weight = latent_weight(layer) if space == "latent" else layer.weight
        assert isinstance(weight, nn.Parameter), "bake the network first"
        found.append(weight)
    return found


def look(study: Study, name: str, space: Space, eps: float, attack: str) -> Row:
    """Return the sharpness of a model in one space, the mean over the states that it alternates."""
    found = []
    fresh = study.net(name)
    schedule = study.schedule(name, fresh)
    adv = study.adversarial(name, attack) if space == "feature" else None
    for state in schedule:
        net = in_state(study.net(name), state)
        if adv is not None:
            parts = [feature_sharpness(net, z.float() / 255, y, eps).cpu() for z, y in study.batches(adv, study.labels)]
            found.append(torch.cat(parts))
            continue
        if space == "latent" and not is_quantized(net):
            raise UserError("a plain network has no latent weights: see its effective ones")
        net = bake(net) if space == "effective" else net

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for x, y in study.batches(study.pixels, study.labels):
                yield x.float() / 255, y

        found.append(torch.tensor([weight_sharpness(net, boxed_weights(net, space), batches, eps)], dtype=torch.float64))
    values = torch.stack(found)
    mean = mean_interval(values.mean(0)) if space == "feature" else {"mean": float(values.mean()), "low": None, "high": None}
    names = [state or "as it is" for state in schedule]
    each = {n: float(v.mean()) for n, v in zip(names, values, strict=True)}
    return {"sharpness": mean["mean"], "low": mean["low"], "high": mean["high"], "states": each}


def analyze(
    study: Study,
    models: Sequence[str],
    spaces: Sequence[Space] = ("effective", "latent", "feature"),
    widths: Sequence[float] = EPS,
    attack: str = "mim",
) -> dict[str, list[Row]]:
    """Return the sharpness of every model in every space, the paper's figure beside it; what cannot be had has a reason."""
    rows, refused = [], []
    for name in models:
        for space in spaces:
            for eps in widths:
                content = {"model": name, "space": space, "eps": eps, "attack": attack if space == "feature" else None}
                try:
                    found = study.remember("sharpness", content, partial(look, study, name, space, eps, attack))
                except UserError as error:
                    refused.append({"model": name, "space": space, "reason": str(error)})
                    break
                reported = REPORTED.get((name, "feature" if space == "feature" else "weight"))
                said = reported[EPS.index(eps)] if reported and eps in EPS else None
                rows.append({"model": name, "space": space, "eps": eps, **found, "reported": said})
    return {"sharpness": rows, "refused": refused}
