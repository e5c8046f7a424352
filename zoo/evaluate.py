"""Clean accuracy against the registry's claim: the admission gate of every model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.intervals import wilson
from zoo.kernels import fixed
from zoo.registry.entry import ModelEntry

if TYPE_CHECKING:
    from zoo.data import Dataset

TOLERANCE = 2.0


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor, batch_size: int = 100, device: str = "cpu") -> Tensor:
    """Return the predicted class (N,) int64 of uint8 images (N, C, H, W)."""
    starts = range(0, len(images), batch_size)
    with fixed(device):
        out = [model(images[i : i + batch_size].to(device).float() / 255).argmax(1).cpu() for i in starts]
    return torch.cat(out) if out else torch.zeros(0, dtype=torch.int64)


def evaluate(
    entry: ModelEntry, limit: int | None = None, device: str = "cpu", batch_size: int = 100, data: str | None = None
) -> dict[str, Any]:
    """Measure the top-1 accuracy in percent with its 95 % Wilson interval and compare it with the claim.

    The images are those of the entry's data set, or of `data`, such as parquet:PATH or folder:PATH.

    `ok` is False when the claim lies outside the interval and more than two points from the measured value.

    Raises:
        UserError: the weights or the images cannot be had, or the device cannot be used.
    """
    from zoo.devices import check_device
    from zoo.loading.load import load_entry

    check_device(device)
    found = images(entry) if data is None else other_images(data)
    found = found.head(limit)
    model = load_entry(entry).to(device)
    correct = int((predictions(model, found.images, batch_size, device) == found.labels).sum())
    n = len(found)
    low, high = (100 * bound for bound in wilson(correct, n))
    claim = entry.clean_accuracy.top1 if entry.clean_accuracy else None
    top1 = 100 * correct / n
    ok = claim is None or low <= claim <= high or abs(top1 - claim) <= TOLERANCE
    verdict = "no claim to compare with" if claim is None else f"claimed {claim:.2f}: " + ("agrees" if ok else "DISAGREES")
    line = f"{entry.name}: {top1:.2f} % of {n} images ({low:.1f} to {high:.1f}); {verdict}"
    return {"name": entry.name, "top1": top1, "n": n, "low": low, "high": high, "claim": claim, "ok": ok, "line": line}


def other_images(name: str) -> Dataset:
    """Return the test images of a data set that is named, such as parquet:PATH."""
    from zoo.data import load

    return load(name, "test")


def images(entry: ModelEntry) -> Dataset:
    """Return the test images as the entry's claim was measured on them: ImageNet's by its size, crop and interpolation."""
    from zoo.data import imagenet, load

    if entry.data in imagenet.VIEWS:
        return imagenet.prepared(entry.data, "test", imagenet.View.of(entry.input))
    return load(entry.data, "test")
