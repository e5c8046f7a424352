"""The network that training starts from: fresh, or with the weights of another entry, quantised or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo import quant
from zoo.archs.mixed import MixedPrecision
from zoo.data import Training
from zoo.data.rectangles import Photographs
from zoo.errors import UserError
from zoo.loading.load import InputWrapper, create
from zoo.quant.modules import ActivationQuantizer, FixedWeight, WeightQuantizer
from zoo.recipes.augment import augment
from zoo.recipes.plan import Plan
from zoo.recipes.seeds import stream
from zoo.registry.entry import ModelEntry

CALIBRATION_BATCH = 64


def begin(
    entry: ModelEntry, settings: Plan, start: nn.Module | None, data: Training, device: torch.device
) -> InputWrapper:
    """Return the entry's network in its input wrapper, ready to train.

    Without a start it is initialised from torch's generator. From a start that is quantised alike everything is taken over,
    learned clip thresholds too; from another the full-precision weights and the statistics are. Thresholds that were not
    taken over are set from a sample of the training images.

    Raises:
        UserError: `start` is another architecture, or holds no full-precision weights.
    """
    model = InputWrapper(create(entry), entry.input, entry.label_offset).to(device)
    if start is not None and take_over(entry, start, model):
        return model
    if quant.is_quantized(model.net):
        calibrate(model, sample(data, settings, entry.input.size).to(device))
    return model


def sample(data: Training, settings: Plan, size: int) -> Tensor:
    """Return some training images, drawn from the seed, as floats in [0, 1]: whole, or crops where they differ in shape."""
    chosen = torch.randperm(len(data), generator=stream(settings.seed, "calibration"))[: settings.options.calibration_images]
    if isinstance(data, Photographs):
        return augment(data.batch(chosen), settings.augment, stream(settings.seed, "calibration crops"), size)
    return data.batch(chosen).float() / 255


def take_over(entry: ModelEntry, start: nn.Module, model: InputWrapper) -> bool:
    """Copy the weights of `start` into the model and return whether its clip thresholds came with them."""
    source = start.net if isinstance(start, InputWrapper) else start
    if any(isinstance(part, FixedWeight) for part in source.modules()):
        assert entry.recipe is not None
        raise UserError(
            f"{entry.name}: recipe.start: {entry.recipe.start} holds packed low-bit codes, not the full-precision weights that "
            "training goes on from; build it with recipe.options.latent: true"
        )
    if _quantizers(source) == _quantizers(model.net):
        _copy(entry, source.state_dict(), model.net.state_dict())
        return True
    for part in parts(model.net):
        _copy(entry, plain_state(source), plain_state(part))
    return False


def calibrate(model: InputWrapper, x: Tensor) -> None:
    """Set clip thresholds, and then the statistics of batch norm, from images in [0, 1].

    Low-bit weights change the scale of every layer, so the statistics of full precision do not fit them.
    """
    model.eval()
    quant.set_state(model.net, "wa")
    received = model.prepare(x)
    for part in parts(model.net):
        if quant.is_quantized(part):
            quant.calibrate(part, received)
            quant.reestimate_batchnorm(part, torch.split(received, CALIBRATION_BATCH))


def parts(net: nn.Module) -> tuple[nn.Module, ...]:
    """Return the members of a network of several precisions, or the network itself."""
    return net.networks() if isinstance(net, MixedPrecision) else (net,)


def plain_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a network has without its quantisers, under the names they have then."""
    skipped = tuple(
        f"{name}." for name, m in net.named_modules() if isinstance(m, WeightQuantizer | ActivationQuantizer)
    )
    state = {}
    for key, value in net.state_dict().items():
        if not skipped or not key.startswith(skipped):
            state[key.replace(".parametrizations.weight.original", ".weight")] = value
    return state


def _quantizers(net: nn.Module) -> list[tuple[str, str, int]]:
    return [
        (name, type(m).__name__, m.bits)
        for name, m in net.named_modules()
        if isinstance(m, WeightQuantizer | ActivationQuantizer)
    ]


def _copy(entry: ModelEntry, source: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    differing = sorted(source.keys() ^ own.keys()) or [k for k in own if own[k].shape != source[k].shape]
    if differing:
        assert entry.recipe is not None
        raise UserError(
            f"{entry.name}: recipe.start: {entry.recipe.start} is another network ({len(differing)} tensors differ, "
            f"{differing[0]!r} first); start from one with the same arch and arch_args"
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(source[key])
