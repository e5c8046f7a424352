"""Feature shift, layer by layer: how far adversarial images move a target's features (Eq. 8, Fig. 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.analyze.study import Row, Study, mean_interval
from zoo.errors import UserError

Layers = Literal["blocks", "convs"]
WHITEBOX = "white-box"


def divergence(clean: Tensor, adv: Tensor) -> Tensor:
    """Return ||F(adv) - F(x)||_2 / ||F(x)||_2 of each image (N,), the features flattened (Eq. 8).

    clean, adv: features (N, ...). An image whose clean features are all zero gives NaN: there is nothing to divide by.
    """
    x, z = clean.flatten(1).double(), adv.flatten(1).double()
    norm = x.norm(dim=1)
    return torch.where(norm > 0, (z - x).norm(dim=1) / norm, torch.nan)


def layer_names(net: nn.Module, which: Layers) -> list[str]:
    """Return the layers that are looked at, in the order in which they compute.

    blocks: modules whose class is named after a block (a residual net's units); convs: every convolution. A net without
    blocks is looked at by its convolutions.
    """
    convs = [name for name, part in net.named_modules() if isinstance(part, nn.modules.conv._ConvNd)]
    blocks = [name for name, part in net.named_modules() if _is_block(part)]
    blocks = [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]
    return blocks if which == "blocks" and blocks else convs


def _is_block(part: nn.Module) -> bool:
    name = type(part).__name__.lower()
    return ("block" in name or "bottleneck" in name or "residual" in name) and any(True for _ in part.children())


@contextmanager
def tapped(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the output of named modules during the next forward pass, in the order in which they compute."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    parts = dict(net.named_modules())
    handles = [parts[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def shifts(study: Study, net: nn.Module, adv: Tensor, which: Layers) -> list[Row]:
    """Return the divergence of every layer of a target on adversarial images (N, C, H, W) uint8."""
    names = layer_names(net, which)
    if not names:
        raise UserError("the target shows no convolutions or blocks, whose features could be compared")
    parts: dict[str, list[Tensor]] = {}
    for x, z in study.batches(study.pixels, adv):
        with tapped(net, names) as found:
            net(x.float() / 255)
            clean = dict(found)
            found.clear()
            net(z.float() / 255)
            for name, features in found.items():
                parts.setdefault(name, []).append(divergence(clean[name], features).cpu())
    made = []
    for place, (name, each) in enumerate(parts.items(), start=1):
        values = torch.cat(each)
        known = values[~values.isnan()]
        made.append({"layer": place, "name": name, **mean_interval(known), "without_features": len(values) - len(known)})
    return made


def analyze(
    study: Study, substitutes: Sequence[str], targets: Sequence[str], attack: str = "mim", which: Layers = "blocks"
) -> list[Row]:
    """Return one row for each target, source of the images and layer; the white-box line is crafted on the target itself."""
    made = []
    for target in targets:
        for substitute in (*substitutes, WHITEBOX):
            source = target if substitute == WHITEBOX else substitute
            content = {"substitute": source, "target": target, "attack": attack, "layers": which}

            def work(source: str = source, target: str = target) -> Row:
                return {"layers": shifts(study, study.net(target), study.adversarial(source, attack), which)}

            found = study.remember("shift", content, work)
            made += [{"target": target, "substitute": substitute, "attack": attack, **layer} for layer in found["layers"]]
    return made
