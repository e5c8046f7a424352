"""Batch normalisation, channel by channel: what full precision and low bits make of its statistics (Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.analyze.study import Row, Study, in_state
from zoo.errors import UserError
from zoo.quant import states
from zoo.registry.entry import State


def norms_of(net: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the batch normalisations that keep statistics, by name, in the order of definition."""
    found = {n: m for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    return {n: m for n, m in found.items() if m.running_mean is not None and m.running_var is not None}


@torch.no_grad()
def measured(study: Study, net: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance (channels,) of what reaches each batch normalisation over the clean images, in float64.

    Channels are taken over images and places, with the population variance: sums of x - s and (x - s)^2 about the kept mean s.
    """
    sums: dict[str, list[Tensor]] = {}
    norms = norms_of(net)

    def watch(name: str, kept: Tensor) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double().transpose(0, 1).flatten(1) - kept.double()[:, None]
            now = [torch.tensor(float(x.shape[1]), dtype=torch.float64), x.sum(1).cpu(), (x * x).sum(1).cpu()]
            sums[name] = [a + b for a, b in zip(sums[name], now, strict=True)] if name in sums else now

        return hook

    handles = []
    for name, norm in norms.items():
        assert norm.running_mean is not None
        handles.append(norm.register_forward_pre_hook(watch(name, norm.running_mean)))
    try:
        for (pixels,) in study.batches(study.pixels):
            net(pixels.float() / 255)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, (count, first, second) in sums.items():
        kept = norms[name].running_mean
        assert kept is not None
        found[name] = (kept.double().cpu() + first / count, second / count - (first / count) ** 2)
    return found


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[float, float]:
    """Return how far statistics b lie from a: the mean over channels of |mean_b - mean_a| / sd_a, and of |ln var_b / var_a|.

    Channels without variance on either side are left out: nothing passes there.
    """
    live = (a[1] > 1e-12) & (b[1] > 1e-12)
    if not bool(live.any()):
        return float("nan"), float("nan")
    shift = (b[0] - a[0])[live].abs() / a[1][live].sqrt()
    scale = (b[1][live] / a[1][live]).log().abs()
    return float(shift.mean()), float(scale.mean())


def look(study: Study, name: str) -> Row:
    """Return the statistics of every batch normalisation of a model: those it keeps, and those of each of its states."""
    net = study.net(name)
    norms = norms_of(net)
    if not norms:
        raise UserError(f"{name} has no batch normalisation that keeps statistics")
    kept = {n: (m.running_mean.double().cpu(), m.running_var.double().cpu()) for n, m in norms.items()}  # type: ignore[union-attr]
    seen: dict[str, dict[str, tuple[Tensor, Tensor]]] = {"kept": kept}
    possible: list[State | None] = [state for state in states(net) if state in ("w", "wa")]
    for state in possible if possible else [None]:
        seen[f"measured {state or 'fp'}"] = measured(study, in_state(net, state))
    layers = []
    for place, layer in enumerate(norms, start=1):
        there = {key: each[layer] for key, each in seen.items() if layer in each}
        layers.append({"layer": place, "name": layer, "statistics": {k: [m.tolist(), v.tolist()] for k, (m, v) in there.items()}})
    return {"layers": layers}


def analyze(study: Study, models: Sequence[str]) -> dict[str, list[Row]]:
    """Return every channel of every layer, and how far each state of a model lies from what its layers keep.

    A model without batch normalisation is named with the reason.
    """
    channels: list[Row] = []
    distances: list[Row] = []
    refused: list[Row] = []
    for name in models:
        try:
            found = study.remember("batchnorm", {"model": name}, partial(look, study, name))
        except UserError as error:
            refused.append({"model": name, "reason": str(error)})
            continue
        for layer in found["layers"]:
            seen = {key: torch.tensor(both, dtype=torch.float64).unbind() for key, both in layer["statistics"].items()}
            where = {"model": name, "layer": layer["layer"], "name": layer["name"]}
            for key, (mean, variance) in seen.items():
                each = zip(mean.tolist(), variance.tolist(), strict=True)
                said = {**where, "statistics": key}
                channels += [{**said, "channel": c, "mean": m, "variance": v} for c, (m, v) in enumerate(each)]
                if key != "kept":
                    shift, scale = distance(seen["kept"], seen[key])
                    distances.append({**where, "statistics": key, "mean_shift": shift, "log_variance_ratio": scale})
    return {"distances": distances, "channels": channels, "refused": refused}
