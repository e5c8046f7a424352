"""CLIP as a classifier: an image tower, and a text embedding for each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo._compat import ensure_torchvision
from zoo.archs.base import ZooNet

SCALE = 100.0
"""Factor of the cosines, which CLIP learns up to this bound and reaches."""


class ZeroShot(ZooNet):
    """logits = 100 * cos(image embedding, class embedding), Radford et al., ICML 2021, Sec. 3.1.2.

    `image` is timm's tower with its projection (`embedding` values); `classes` holds one embedding a row, of unit length in
    weights that are made of prompts. It is an ordinary linear layer, so that quantisers treat it as the classifier.
    """

    first_conv = "image.patch_embed.proj"
    classifier = "classes"
    feature_layer = "image.blocks.5"

    def __init__(self, image: nn.Module, embedding: int, classes: int) -> None:
        super().__init__()
        self.image = image
        self.classes = nn.Linear(embedding, classes, bias=False)
        with torch.no_grad():
            self.classes.weight.copy_(F.normalize(self.classes.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of normalised images."""
        logits: Tensor = SCALE * self.classes(F.normalize(self.image(x)))
        return logits


def vit_b32(classes: int, tower: str = "vit_base_patch32_clip_224.openai", embedding: int = 512) -> ZeroShot:
    """Return OpenAI's ViT-B/32, freshly initialised."""
    ensure_torchvision()
    import timm

    return ZeroShot(timm.create_model(tower, pretrained=False, num_classes=embedding), embedding, classes)
