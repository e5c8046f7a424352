"""What a target answers to images: the bytes as they arrive, and the class that it says; all that decides it is imported here."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor, nn

from harness.substitutes.speed import at_speed
from zoo.errors import UserError
from zoo.kernels import Precision, fixed
from zoo.quant import frozen

BATCH = 50
"""Images that a target sees at once; fixed, as float kernels differ in their last bits between batch sizes."""


def transported(images: Tensor, transport: str) -> Tensor:
    """Return uint8 images (N, C, H, W) as they arrive: unchanged, or through JPEG at quality 75 (the released code's files)."""
    if transport == "lossless":
        return images
    from PIL import Image

    out = []
    for image in images.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=75)
        out.append(np.asarray(Image.open(buffer)).reshape(image.shape))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, device: str, precision: Precision = "exact") -> Tensor:
    """Return the predicted classes (N,) int16 of uint8 images, in padded batches of a fixed size.

    Raises:
        UserError: an answer is not finite, which is no prediction: the largest of NaNs would be class 0.
    """
    out = []
    with fixed(device, precision), frozen(model), at_speed(model) as layout:
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            padded = torch.cat([batch, batch[-1:].expand(BATCH - len(batch), *batch.shape[1:])])
            pixels = (padded.to(device).float() / 255).to(memory_format=layout)
            logits = model(pixels)[: len(batch)]
            broken = (~logits.isfinite()).flatten(1).any(1)
            if broken.any():
                first = start + int(broken.nonzero()[0])
                raise UserError(
                    f"answers {int(broken.sum())} of {len(batch)} images, first {first}, with NaN or infinite logits"
                )
            out.append(logits.argmax(1))
    return torch.cat(out).to(torch.int16).cpu()
