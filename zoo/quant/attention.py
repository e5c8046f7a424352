"""Quantisation of attention: of both its products' factors, and of what a softmax leaves, which spans powers of ten.

Queries, keys and values are quantised evenly, attention maps by powers of two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.quant import functional as F
from zoo.quant.modules import quantize_input
from zoo.quant.rounding import DroppingActivation


class Log2Activation(DroppingActivation):
    """q(x) = 2^(-k/s), k = round(-s log2 x), for k <= 2^bits - 2; 0 below: 2^bits values of [0, 1], dense near 0.

    At up to 4 bits s = 1: Lin et al., "FQ-ViT: Post-Training Quantization for Fully Quantized Vision Transformer", IJCAI 2022,
    Sec. 3.3. Above, where powers of two would reach far below any probability and be no finer, s = 2: Li et al., "RepQ-ViT",
    ICCV 2023, Sec. 3.3. The range is fixed, so that nothing is learned; QDrop drops it like other activations. The gradient
    passes straight through.
    """

    @property
    def per_octave(self) -> int:
        """s, the number of levels for each factor of two."""
        return 1 if self.bits <= 4 else 2

    def calibrate(self, x: Tensor, signed: bool | None) -> None:
        """Take note that the range is known: it is [0, 1]."""
        self.calibrated.fill_(True)
        self.signed.fill_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Quantise, each value with probability 1 - drop."""
        if not self.enabled:
            return x
        power = -torch.log2(x.detach().clamp_min(torch.finfo(x.dtype).tiny))
        code = (power * self.per_octave).round()
        value = torch.exp2(-code.clamp_min(0) / self.per_octave)
        q = F.replace_ste(x, torch.where(code <= 2**self.bits - 2, value, torch.zeros_like(x)))
        if self.drop <= 0:
            return q
        keep = torch.rand(x.shape, generator=self.generator, device=x.device) < self.drop
        return torch.where(keep, x, q)


PRODUCTS = ("queries", "keys", "values")
"""The thirds of what a layer called `qkv` gives, in timm's order."""


def quantize_products(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook of a `qkv` layer: quantise its thirds, each in a range of its own. (..., 3 * width) to the same."""
    thirds = zip(PRODUCTS, output.chunk(len(PRODUCTS), -1), strict=True)
    return torch.cat([layer.get_submodule(name)(third) for name, third in thirds], -1)


def quantize_attention(model: nn.Module, bits: int) -> list[str]:
    """Quantise the factors of both products of attention as timm builds it, and return the names of their places.

    They are q and k of the scores, and v and the attention map of the sum (FQ-ViT, Sec. 3). Fused kernels never show their
    map, so attention is computed step by step from then on; its values stay the same.
    """
    found = []
    for name, module in model.named_modules():
        drop: Any = getattr(module, "attn_drop", None)
        if isinstance(drop, nn.Dropout) and hasattr(module, "qkv"):
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
            quantizer = Log2Activation(bits).train(module.training)
            quantizer.layer = f"{name}.attn_drop"
            drop.add_module("input_quantizer", quantizer)
            drop.register_forward_pre_hook(quantize_input)
            found.append(f"{name}.attn_drop")
            qkv: Any = module.qkv
            for third in PRODUCTS:
                factor = DroppingActivation(bits).train(module.training)
                factor.layer = f"{name}.qkv.{third}"
                qkv.add_module(third, factor)
                found.append(factor.layer)
            qkv.register_forward_hook(quantize_products)
    return found
