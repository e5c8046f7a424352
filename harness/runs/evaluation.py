"""One network of one's own under one attack, in one call, as the harness measures a cell: on bytes, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.board.statistics import Rate, proportion
from harness.board.table import with_interval
from harness.runs.craft import images_per_pass, max_level, spans, to_bytes
from harness.runs.stage import Notify
from zoo.devices import check_device
from zoo.errors import UserError
from zoo.evaluate import predictions
from zoo.kernels import fixed


@dataclass(frozen=True)
class Evaluation:
    """What a network answered. Rates are fractions with their 95 % intervals, and `adv` are the images, uint8 (N, C, H, W)."""

    n: int
    clean_accuracy: Rate
    """Of all images, unattacked."""
    robust_accuracy: Rate
    """Of all images, attacked."""
    asr: Rate | None
    """Images that the network gets wrong, of those that it classifies correctly when clean; None where it has none right."""
    max_level: int
    """The largest change of a byte."""
    adv: Tensor = field(repr=False, compare=False)

    def __str__(self) -> str:
        asr = "no data" if self.asr is None else f"{with_interval(self.asr)} %"
        clean, robust = with_interval(self.clean_accuracy), with_interval(self.robust_accuracy)
        return f"{self.n} images: clean accuracy {clean} %, robust accuracy {robust} %, ASR {asr}; at most {self.max_level}/255"


def evaluate(
    target: nn.Module | str,
    images: Tensor,
    labels: Tensor,
    *,
    attack: str | Mapping[str, object] | Callable[..., object] = "mim",
    substitute: Any = None,
    eps: float = 8 / 255,
    steps: int = 10,
    seed: int = 0,
    device: str = "cpu",
    block: int = 16,
    notify: Notify | None = None,
) -> Evaluation:
    """Attack images on a substitute and say how the target takes them.

    Args:
        target: a network in evaluation mode from [0, 1] pixels (N, C, H, W) to logits, or the name of one of the zoo.
        images: (N, C, H, W), uint8, or floats in [0, 1] that are rounded to bytes.
        labels: (N,) true classes.
        attack: a preset's name, a mapping of parts, path/to/attack.py:MyAttack, torchattacks:NAME, an attack, or a class,
            instance or function of your own.
        substitute: what the attack sees: None is the target itself (white-box), otherwise a network, the name of one of the
            zoo, with its alternation, or one of `harness.substitutes`.
        eps: radius of the ball, in [0, 1] pixel units; whole steps of 1/255.
        steps: iterations, unless the attack fixes its own.
        seed: of what the attack draws.
        device: where to compute, such as cuda:0.
        block: images that are attacked together.
        notify: called with what is being done, how much of it is done, and how much there is.

    Raises:
        UserError: images, labels, eps, a name or the device are not as said, or the attack fails.
    """
    from harness.attacks import Images, Rng, get

    levels = _levels(eps)
    clean = _as_bytes(images, labels)
    check_device(device)
    labels = labels.detach().cpu().long()
    net = _network(target).to(device)
    maker, value = _substitute(net if substitute is None else substitute, device), get(attack)
    pool, made = Images(clean, labels), []
    blocks = spans(len(clean), block)
    with fixed(device), maker.session(seed):
        for done, (start, stop) in enumerate(blocks, 1):
            index = torch.arange(start, start + block).clamp(max=stop - 1)  # the last block is padded: kernels see one shape
            bytes_in = clean[index].to(device)
            x = bytes_in.float() / 255
            rng, chunk = Rng(seed, index.tolist(), device), images_per_pass(x, block)
            adv = value(maker, x, labels[index].to(device), eps=levels / 255, steps=steps, rng=rng, pool=pool, chunk=chunk)
            made.append(to_bytes(adv, bytes_in, levels)[: stop - start].cpu())
            if notify is not None:
                notify("crafting", done, len(blocks))
    with fixed(device):
        return _judged(net, clean, torch.cat(made), labels, block, device)


def _judged(net: nn.Module, clean: Tensor, adv: Tensor, labels: Tensor, block: int, device: str) -> Evaluation:
    right, still = (predictions(net, shown, block, device) == labels for shown in (clean, adv))
    n, known = len(labels), int(right.sum())
    accuracies = [proportion(int(each.sum()), n) for each in (right, still)]
    assert accuracies[0] is not None and accuracies[1] is not None
    asr = proportion(int((right & ~still).sum()), known)
    return Evaluation(n, accuracies[0], accuracies[1], asr, max_level(adv, clean), adv)


def _levels(eps: float) -> int:
    levels = round(eps * 255)
    if not 1 <= levels <= 255 or abs(eps * 255 - levels) > 1e-3:
        raise UserError(f"eps is a whole number of steps of 1/255 in [0, 1] pixel units, such as 8 / 255, not {eps}")
    return levels


def _as_bytes(images: Tensor, labels: Tensor) -> Tensor:
    """Return the images as uint8 on the host, after checking that they go with the labels."""
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(images) or labels.is_floating_point():
        raise UserError(
            f"images are (N, C, H, W) and labels (N,) whole numbers, at least one, not {tuple(images.shape)} and "
            f"{tuple(labels.shape)} {labels.dtype}"
        )
    if images.dtype == torch.uint8:
        return images.detach().cpu()
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise UserError(
            f"images are uint8, or floats in [0, 1] before any normalisation, which belongs into the network; these are "
            f"{images.dtype} from {float(images.min()):.3g} to {float(images.max()):.3g}"
        )
    return (images.detach().cpu() * 255).round().to(torch.uint8)


def _network(target: nn.Module | str) -> nn.Module:
    if isinstance(target, str):
        import zoo

        return zoo.load(target)
    if not isinstance(target, nn.Module):
        raise UserError(f"the target is an nn.Module or the name of a model of the zoo, not a {type(target).__name__}")
    if target.training:
        raise UserError("the target is in training mode, so its answers would depend on the batch; call model.eval() first")
    return target


def _substitute(given: Any, device: str) -> Any:
    """Return what the attack sees, as the harness makes it: a network of the zoo with its schedule of states."""
    from harness.substitutes import Crafter, Substitute

    if isinstance(given, str):
        from harness.runs.workspace import assemble, is_collection
        from harness.suites.suite import SubstituteSpec
        from zoo import registry
        from zoo.loading.load import load_entry, weights_path
        from zoo.loading.snapshots import Snapshots

        entry = registry.load(())[given]
        snapshots = {entry.name: Snapshots(weights_path(entry))} if is_collection(entry) else {}
        spec = SubstituteSpec(name=entry.name, models=(entry.name,))
        return assemble(spec, [entry], [load_entry(entry).to(device)], snapshots)
    if isinstance(given, nn.Module):
        return Substitute(given.to(device))
    if not isinstance(given, Crafter):
        raise UserError(
            f"the substitute is an nn.Module, the name of a model of the zoo, or one of harness.substitutes, not a "
            f"{type(given).__name__}"
        )
    return given
