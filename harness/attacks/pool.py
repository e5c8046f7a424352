"""Images of the suite that attacks may mix in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.attacks.rng import Rng


RESIDENT_BYTES = 2 * 10**9
"""Images that are kept on a device; more are fetched from the host at each draw."""


class Pool(Protocol):
    """Images that an attack may mix in; they come from here, not from the batch, so that batch-mates do not matter."""

    def draw(self, rng: Rng, y: Tensor) -> Tensor:
        """Return one image per label of y, (N, C, H, W) in [0, 1], each of another label, without gradient."""

    def some(self, rng: Rng, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` images in [0, 1] and their labels, drawn with replacement by a generator of one row."""


class Images:
    """The pool of all clean images of a suite: uint8 (M, C, H, W) and labels (M,)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 4 or len(images) != len(labels) or images.is_floating_point():
            raise UserError(
                f"a pool needs uint8 images (M, C, H, W) and M labels, not {tuple(images.shape)} {images.dtype} "
                f"and {tuple(labels.shape)}"
            )
        self.images = images
        self.labels = labels
        alike = len(labels) > 0 and bool((labels == labels[0]).all())
        self._single = int(labels[0]) if alike else None
        self._copies: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, their numbers sorted by label, and the sorted labels, on the device where they fit."""
        if device not in self._copies:
            labels, order = self.labels.cpu().sort(stable=True)
            fits = device.type == "cpu" or self.images.nbytes <= RESIDENT_BYTES
            images = self.images.to(device) if fits else self.images
            self._copies[device] = (images, order.to(device), labels.to(device))
        return self._copies[device]

    def draw(self, rng: Rng, y: Tensor) -> Tensor:
        """Return one image per label of y, in [0, 1], uniformly among the images with another label; without gradient.

        Raises:
            UserError: a label has no image of another label to mix with.
        """
        images, order, labels = self._on(y.device)
        if self._single is not None and bool((y == self._single).any()):
            raise UserError(
                f"no image of a label other than {self._single} to mix in: "
                f"the pool holds {len(self.images)} image(s) of that label alone; run this attack on more images"
            )
        # the r-th image of another label, counted label by label; nothing is read back from the device
        start, stop = torch.searchsorted(labels, y), torch.searchsorted(labels, y, right=True)
        own = stop - start
        count = len(labels) - own
        rank = torch.minimum((rng.uniform(()).double() * count).long(), count - 1)
        chosen = order[torch.where(rank >= start, rank + own, rank)]
        return images[chosen.to(images.device)].to(y.device).float() / 255

    def some(self, rng: Rng, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` images in [0, 1] and their labels, drawn with replacement by a generator of one row."""
        chosen = (rng.uniform((count,))[0].double() * len(self.images)).long().clamp(max=len(self.images) - 1)
        chosen = chosen.to(self.images.device)
        return self.images[chosen].float() / 255, self.labels[chosen.to(self.labels.device)]
