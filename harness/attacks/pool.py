"""Images of the suite that attacks may mix in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.attacks.rng import Rng


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

    def draw(self, rng: Rng, y: Tensor) -> Tensor:
        """Return one image per label of y, in [0, 1], uniformly among the images with another label; without gradient.

        Raises:
            UserError: a label has no image of another label to mix with.
        """
        other = self.labels.to(y.device)[None, :] != y[:, None]
        count = other.sum(1)
        if int(count.min()) == 0:
            raise UserError(
                f"no image of a label other than {int(y[int(count.argmin())])} to mix in: "
                f"the pool holds {len(self.images)} image(s) of that label alone; run this attack on more images"
            )
        # the r-th image of another label: draws stay valid when the pool lives on another device or grows
        rank = (rng.uniform(()).double() * count).long().clamp(max=count - 1)
        chosen = (other.cumsum(1) > rank[:, None]).int().argmax(1)
        return self.images[chosen.to(self.images.device)].to(y.device).float() / 255

    def some(self, rng: Rng, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` images in [0, 1] and their labels, drawn with replacement by a generator of one row."""
        chosen = (rng.uniform((count,))[0].double() * len(self.images)).long().clamp(max=len(self.images) - 1)
        chosen = chosen.to(self.images.device)
        return self.images[chosen].float() / 255, self.labels[chosen.to(self.labels.device)]
