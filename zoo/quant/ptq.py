"""QDrop (Wei et al., ICLR 2022): post-training quantisation by reconstructing one block after another.

Each block learns how to round its weights (AdaRound) and the steps of its activations so that its output, from inputs that
are quantised at random per element, stays close to the full-precision output. The full-precision weights are kept, batch
normalisation folded in, so that the states "fp" and "wa" both work.

Three choices differ from the published code, which needs each architecture rewritten: activations are quantised where a layer
reads them rather than where they are written, so a residual sum is in full precision; blocks are found from the module tree,
single layers where there are none; and a block whose learned rounding ends no better than rounding to the nearest keeps the
latter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.quant.calibration import calibrate
from zoo.quant.convert import (
    activation_quantizers,
    latent_weight,
    layers,
    quantize,
    set_state,
    weight_quantizers,
)
from zoo.quant.fold import fold_batchnorm
from zoo.quant.layernorm import even_layernorms
from zoo.quant.rounding import DroppingActivation, RoundedWeight
from zoo.registry.entry import QuantSpec
from zoo.registry.qdrop import ReconstructionSettings

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_STAGES = ("SwinTransformerStage", "ConvNeXtStage")
"""Classes of timm's that hold blocks of their own; they are looked into, so that a block is reconstructed at once."""
_LARGEST_BLOCK = 16  # quantised layers; larger modules are taken apart
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Hardswish, nn.GELU, nn.ELU)


@dataclass(frozen=True)
class QDrop(ReconstructionSettings):
    """Settings of the whole reconstruction."""

    batch_size: int = 32
    calibration: int = 256
    seed: int = 1005


QUICK = QDrop(iterations=400, rounding_lr=2e-2, step_lr=4e-4)
"""Hundreds of iterations at a higher rate: minutes on a CPU for small nets."""

Progress = Callable[[str, int, int, float], None]
"""Called after each block with its name, its number, the number of blocks, and the mean squared error of its output."""


@dataclass
class _Unit:
    """A part of the network that is reconstructed at once, and the activation that follows it unconditionally."""

    name: str
    module: nn.Module
    after: nn.Module
    weights: dict[str, RoundedWeight]
    inputs: dict[str, DroppingActivation]


class _ReachedError(Exception):
    """Ends a forward pass whose rest is not needed."""


def qdrop(
    model: nn.Module,
    spec: QuantSpec,
    images: Tensor,
    settings: QDrop = QUICK,
    *,
    progress: Progress | None = None,
    resume: tuple[int, Mapping[str, Tensor]] | None = None,
) -> nn.Module:
    """Quantise a trained full-precision network after training, in place, and return it in the state "wa".

    Args:
        model: Trained, with its batch normalisation; in evaluation mode afterwards.
        spec: Of method "qdrop".
        images: (N, C, H, W) as the network receives them; the paper uses 1024.
        settings: `QDrop()` for the paper's 20,000 iterations per block.
        progress: Told of each finished block.
        resume: How many blocks are finished, and the model's state dict then; the rest goes as it would have.

    Raises:
        UserError: Another method, or no images.
    """
    if spec.method != "qdrop":
        raise UserError(f"qdrop was given a spec of method {spec.method!r}; it needs method 'qdrop'")
    if images.dim() != 4 or len(images) == 0:
        raise UserError("qdrop needs calibration images of shape (N, C, H, W): pass at least one, better hundreds")
    model.eval()
    fold_batchnorm(model, images[:1], check=True)
    if spec.a_bits != 32:
        even_layernorms(model, images[: settings.calibration], spec.a_bits)
    quantize(model, spec)
    set_state(model, "fp")
    calibrate(model, images[: settings.calibration])
    if resume is not None:
        model.load_state_dict(resume[1], strict=True)
    required = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in required:
            parameter.requires_grad_(False)
        _reconstruct_all(model, images, settings, progress, resume[0] if resume is not None else 0)
    finally:
        for parameter, flag in required:
            parameter.requires_grad_(flag)
    set_state(model, "wa")
    return model


def _reconstruct_all(
    model: nn.Module, images: Tensor, settings: QDrop, progress: Progress | None, finished: int
) -> None:
    units = _in_order(model, find_units(model), images[:1])
    done = units[:finished]
    for number, unit in enumerate(units[finished:], finished + 1):
        # A stream of its own for each block, so that the rest can be done without the part before it.
        generator = torch.Generator(images.device).manual_seed(settings.seed + number * 1_000_003)
        with torch.no_grad():
            set_state(model, "fp")
            wanted, goal = _capture(model, unit, images, settings.batch_size, output=True)
            for earlier in done:
                _switch(earlier, on=True)
            given, _ = _capture(model, unit, images, settings.batch_size, output=False)
        _switch(unit, on=True)
        error = _reconstruct(unit, given, wanted, goal, settings, generator)
        done.append(unit)
        if progress is not None:
            progress(unit.name, number, len(units), error)


def find_units(model: nn.Module) -> list[str]:
    """Return the names of the blocks: the outermost modules of their own class with quantised layers inside.

    Plain containers, and modules of more than 16 such layers, are looked into; a layer outside any block stands alone.
    """
    quantized = set(weight_quantizers(model))

    def search(prefix: str, module: nn.Module) -> Iterator[str]:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            inside = [layer for layer in quantized if layer == path or layer.startswith(f"{path}.")]
            if not inside or name == "parametrizations":
                continue
            holds = isinstance(child, _CONTAINERS) or type(child).__name__ in _STAGES
            if path in quantized or (not holds and len(inside) <= _LARGEST_BLOCK):
                yield path
            else:
                yield from search(f"{path}.", child)

    return list(search("", model))


def _in_order(model: nn.Module, names: list[str], x: Tensor) -> list[_Unit]:
    """Return the blocks as units in the order in which the network runs them, each with the activation that is fed its output.

    That activation is part of what is reconstructed, as in the published code, where norm and activation are merged into the
    layer before them: a stem's, and that of timm's `conv_head`. A block that is not one tensor in, one tensor out, or that
    runs more than once, is replaced by its layers.
    """
    quantized = list(weight_quantizers(model))
    calls: dict[str, int] = {}
    tensors: dict[str, bool] = {}
    given: dict[str, Any] = {}
    followers: dict[int, nn.Module] = {}
    handles = []

    def watch(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[path] = calls.get(path, 0) + 1
            given[path] = output  # kept alive, so that its id stays its own
            tensors[path] = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor)

        return hook

    def follow(module: nn.Module, args: Any) -> None:
        followers.setdefault(id(args[0]), module)

    for path in {*names, *quantized}:
        handles.append(model.get_submodule(path).register_forward_hook(watch(path)))
    for module in model.modules():
        if isinstance(module, _ACTIVATIONS):
            handles.append(module.register_forward_pre_hook(follow))
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    usable = {path for path, count in calls.items() if count == 1 and tensors[path]}
    chosen = []
    for name in names:
        parts = [layer for layer in quantized if layer == name or layer.startswith(f"{name}.")]
        chosen += [name] if name in usable else [layer for layer in parts if layer in usable]
    order = {path: place for place, path in enumerate(calls)}  # a block ends after its layers
    return [_unit(model, name, followers.get(id(given[name]))) for name in sorted(chosen, key=order.__getitem__)]


def _unit(model: nn.Module, name: str, follower: nn.Module | None) -> _Unit:
    def belongs(path: str) -> bool:
        return path == name or path.startswith(f"{name}.")

    weights = {n: q for n, q in weight_quantizers(model).items() if belongs(n) and isinstance(q, RoundedWeight)}
    inputs = {n: q for n, q in activation_quantizers(model).items() if belongs(n) and isinstance(q, DroppingActivation)}
    after = nn.Identity() if follower is None else follower
    return _Unit(name, model.get_submodule(name), after, weights, inputs)


def _switch(unit: _Unit, *, on: bool) -> None:
    for weight in unit.weights.values():
        weight.enabled = on
    for activation in unit.inputs.values():
        activation.enabled = on


def _capture(model: nn.Module, unit: _Unit, images: Tensor, batch: int, *, output: bool) -> tuple[Tensor, Tensor]:
    """Return what the unit is given over all images, and what comes after it when `output`, both in the host's memory.

    A layer's maps of a thousand images are more than a device holds: 13 GB for the first ones of VGG-16.
    """
    inputs, outputs = _Gathered(len(images)), _Gathered(len(images) if output else 0)

    def before(module: nn.Module, args: Any) -> None:
        inputs.add(args[0])
        if not output:
            raise _ReachedError

    def after(module: nn.Module, args: Any, value: Tensor) -> None:
        outputs.add(unit.after(value.detach().clone()))
        raise _ReachedError

    # Hooks on the block run before those of its own quantiser, so a single layer's input is seen unquantised.
    handles = [unit.module.register_forward_pre_hook(before, prepend=True)]
    if output:
        handles.append(unit.module.register_forward_hook(after))
    try:
        for part in torch.split(images, batch):
            try:
                model(part)
            except _ReachedError:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return inputs.values, outputs.values


class _Gathered:
    """Batches put one after another into one tensor of the host, so that they are never there twice."""

    def __init__(self, count: int) -> None:
        self.values, self.count, self.filled = torch.empty(0), count, 0

    def add(self, batch: Tensor) -> None:
        if self.filled == 0:
            self.values = torch.empty((self.count, *batch.shape[1:]), dtype=batch.dtype)
        self.values[self.filled : self.filled + len(batch)].copy_(batch.detach())
        self.filled += len(batch)


def _reconstruct(
    unit: _Unit, given: Tensor, wanted: Tensor, goal: Tensor, settings: QDrop, generator: torch.Generator
) -> float:
    """Learn the rounding and the activation steps of one unit, harden them, and return its final error.

    Where that ends no better than rounding to the nearest, as it can when outputs are so small that the regulariser
    outweighs them, the unit is left with nearest rounding.
    """
    before = [*unit.weights.values(), *unit.inputs.values()]
    kept = [{key: value.clone() for key, value in quantizer.state_dict().items()} for quantizer in before]
    nearest = _error(unit, given, goal, settings.batch_size, generator.device)
    for activation in unit.inputs.values():
        activation.drop, activation.generator = settings.drop, generator
    _learn(unit, given, wanted, goal, settings, generator)
    for activation in unit.inputs.values():
        activation.drop, activation.generator = 0.0, None
    learned = _error(unit, given, goal, settings.batch_size, generator.device)
    if learned <= nearest:
        return learned
    for quantizer, state in zip(before, kept, strict=True):
        quantizer.load_state_dict(state)
    return nearest


def _learn(
    unit: _Unit, given: Tensor, wanted: Tensor, goal: Tensor, settings: QDrop, generator: torch.Generator
) -> None:
    """Run the optimisers: Adam on the rounding, and on the activation steps with a cosine schedule."""
    named = dict(_layers_of(unit))
    relaxed = [q.relax(latent_weight(named[name])) for name, q in unit.weights.items()]
    steps = [q.step.requires_grad_(True) for q in unit.inputs.values()]
    groups = [{"params": relaxed, "lr": settings.rounding_lr}, {"params": steps, "lr": settings.step_lr}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    for iteration in range(settings.iterations):
        if steps:
            cosine = 0.5 * (1 + math.cos(math.pi * iteration / settings.iterations))
            optimizer.param_groups[-1]["lr"] = settings.step_lr * cosine
        count = min(settings.batch_size, len(given))
        chosen = torch.randint(len(given), (count,), generator=generator, device=generator.device).cpu()
        quantized, full, wish = (kept[chosen].to(generator.device) for kept in (given, wanted, goal))
        x = _mixed(quantized, full, settings.drop, generator)
        with torch.enable_grad():
            error = (unit.after(unit.module(x)) - wish).square().sum(1 if wish.ndim == 4 else -1).mean()
            loss = error + _regulariser(unit, iteration, settings)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        with torch.no_grad():
            for step in steps:
                step.abs_().clamp_min_(1.2e-7)
    for name, quantizer in unit.weights.items():
        quantizer.harden(latent_weight(named[name]))
    for step in steps:
        step.requires_grad_(False)


def _mixed(quantized: Tensor, full: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Return the quantised values, each dropped for that of full precision with probability `drop`."""
    kept = torch.rand(quantized.shape, generator=generator, device=quantized.device) < 1 - drop
    return torch.where(kept, quantized, full)


@torch.no_grad()
def _error(unit: _Unit, given: Tensor, goal: Tensor, batch: int, device: torch.device) -> float:
    """Mean squared error of the unit's output, quantised throughout."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for part, wish in zip(torch.split(given, batch), torch.split(goal, batch), strict=True):
        total += (unit.after(unit.module(part.to(device))) - wish.to(device)).square().sum(dtype=torch.float64)
    return float(total / goal.numel())


def _layers_of(unit: _Unit) -> Iterator[tuple[str, nn.Module]]:
    if unit.name in unit.weights:
        yield unit.name, unit.module
    for name, layer in layers(unit.module).items():
        if name:
            yield f"{unit.name}.{name}", layer


def _regulariser(unit: _Unit, iteration: int, settings: QDrop) -> Tensor | float:
    """AdaRound's push towards 0 or 1: lambda * sum(1 - |2h - 1|^b), off during the warm-up, then b from 20 down to 2."""
    start = settings.warmup * settings.iterations
    if iteration < start:
        return 0.0
    power = 2 + 18 * (1 - (iteration - start) / max(settings.iterations - start, 1))
    total = torch.stack([(1 - (2 * q.softness() - 1).abs().pow(power)).sum() for q in unit.weights.values()]).sum()
    return settings.regulariser * total


__all__ = ["QUICK", "QDrop", "find_units", "qdrop"]
