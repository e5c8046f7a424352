"""Transformers: built from the registry, quantised block by block, attention maps by powers of two."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo import archs
from zoo._compat import ensure_torchvision
from zoo.archs import clip
from zoo.loading.load import create
from zoo.quant import activation_quantizers, calibrate, qdrop, quantize, set_state, weight_quantizers
from zoo.quant.attention import Log2Activation
from zoo.quant.convert import layers
from zoo.quant.layernorm import even_layernorms
from zoo.quant.ptq import QDrop, find_units
from zoo.quant.rounding import RoundedWeight
from zoo.registry import load
from zoo.registry.entry import QuantSpec

NAMES = ("vit-b16", "deit-s", "swin-t", "convnext-t", "clip-vit-b32")
FEW = QDrop(iterations=4, batch_size=4, calibration=4)


def vit(**args: Any) -> nn.Module:
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    small = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**{**small, **args})


def swin() -> nn.Module:
    ensure_torchvision()
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=16, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=5
    )


def convnext() -> nn.Module:
    ensure_torchvision()
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 1, 2), dims=(4, 4, 8, 8), num_classes=5)


def zero_shot() -> nn.Module:
    return clip.ZeroShot(vit(num_classes=12), 12, 5)


SMALL: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "vit": (vit, {"patch_embed", "blocks.0", "blocks.1", "head"}),
    "swin": (
        swin,
        {"patch_embed", "layers.0.blocks.0", "layers.0.blocks.1", "layers.1.downsample", "layers.1.blocks.0"}
        | {"layers.1.blocks.1", "head"},
    ),
    "convnext": (
        convnext,
        {f"stages.{stage}.blocks.0" for stage in range(4)}
        | {f"stages.{stage}.downsample.1" for stage in (1, 2, 3)}
        | {"stem.0", "stages.3.blocks.1", "head"},
    ),
    "clip": (zero_shot, set()),
}


def images(count: int = 6, side: int = 16) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
def test_a_transformer_is_quantised_block_by_block_and_answers_nearly_as_before(name: str) -> None:
    make, blocks = SMALL[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make().eval()
    x = images(side=32 if name == "convnext" else 16)
    with torch.no_grad():
        before = net(x)
    seen: list[str] = []
    qdrop(net, QuantSpec(method="qdrop", w_bits=8, a_bits=8), x, FEW, progress=lambda block, *_: seen.append(block))
    assert not blocks or set(seen) == blocks
    with torch.no_grad():
        eight = net(x)
        set_state(net, "fp")
        assert torch.allclose(net(x), before, atol=1e-4), "attention without fused kernels is the same"
    assert 0 < (eight - before).abs().max() < 0.3 * before.abs().max()
    weights = [q for q in weight_quantizers(net).values() if isinstance(q, RoundedWeight)]
    assert all(q.unit.numel() == q.code.shape[0] for q in weights), "a scale for each output channel"


def test_blocks_of_a_transformer_are_found() -> None:
    for make, blocks in SMALL.values():
        if blocks:
            assert set(find_units(quantize(make(), QuantSpec(method="qdrop", w_bits=4, a_bits=4)))) == blocks


def test_attention_maps_are_quantised_by_powers_of_two() -> None:
    quantizer = Log2Activation(2)
    quantizer.calibrate(torch.zeros(1), None)
    x = torch.tensor([1.0, 0.8, 0.6, 0.34, 0.3, 0.2, 0.17, 0.1, 0.0], requires_grad=True)
    q = quantizer(x)
    assert q.tolist() == [1.0, 1.0, 0.5, 0.25, 0.25, 0.25, 0.0, 0.0, 0.0]
    assert torch.equal(torch.autograd.grad(q.sum(), x)[0], torch.ones(9))
    assert len(set(Log2Activation(4).eval()(_calibrated(4)).tolist())) == 16
    fine = Log2Activation(8)(torch.tensor([1.0, 0.72, 0.7, 0.5, 0.34, 2.0**-126]))
    assert torch.allclose(fine, torch.tensor([1.0, 0.5**0.5, 0.5**0.5, 0.5, 0.5**1.5, 2.0**-126]), rtol=1e-6, atol=0)
    net = quantize(vit(), QuantSpec(method="qdrop", w_bits=4, a_bits=4))
    maps = {name for name, q in activation_quantizers(net).items() if isinstance(q, Log2Activation)}
    assert maps == {"blocks.0.attn.attn_drop", "blocks.1.attn.attn_drop"}
    assert not quantize(vit(), QuantSpec(method="qdrop", w_bits=4, a_bits=32)).blocks[0].attn.attn_drop._modules  # type: ignore[index, union-attr]


@pytest.mark.parametrize("make", [vit, swin])
def test_both_factors_of_both_products_of_attention_have_few_values(make: Callable[[], nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = make().eval()
    qdrop(net, QuantSpec(method="qdrop", w_bits=32, a_bits=3), images(), FEW)
    attention = next(m for m in net.modules() if hasattr(m, "attn_drop"))
    seen: list[Tensor] = []
    handle = attention.qkv.register_forward_hook(lambda layer, args, out: seen.extend(out.chunk(3, -1)))  # type: ignore[union-attr]
    with handle, torch.no_grad():
        net(images())
    assert len(seen) == 3 and all(2 < len(third.unique()) <= 2**3 for third in seen)
    set_state(net, "w")
    seen.clear()
    with torch.no_grad():
        net(images())
    assert all(len(third.unique()) <= 2**3 for third in seen), "the hook is gone"


def test_a_step_for_all_channels_serves_them_once_a_layernorm_carries_their_scales() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = vit().eval(), images(8)
        for block in net.blocks:  # type: ignore[union-attr]
            block.norm1.weight.data *= torch.logspace(-1, 1, 16)
            block.norm1.bias.data += torch.linspace(-3, 3, 16)
    plain = copy.deepcopy(net)
    with torch.no_grad():
        before = net(x)
        named = even_layernorms(net, x, 5)
        assert named == ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2"]
        assert torch.allclose(net(x), before, atol=1e-4 * float(before.abs().max()))
        given: list[Tensor] = []
        with net.blocks[0].norm1.register_forward_hook(lambda norm, args, out: given.append(out.flatten(0, -2))):  # type: ignore[index, union-attr]
            net(x)
        low, high = given[0].amin(0), given[0].amax(0)
        assert torch.allclose(low, low.mean().expand(16), rtol=1e-4) and torch.allclose(
            high, high.mean().expand(16), rtol=1e-4
        ), "every channel has one range"
        errors = [_error_of_the_first_product(each, x) for each in (net, plain)]
    assert errors[0] < 0.3 * errors[1]


def _error_of_the_first_product(net: Any, x: Tensor) -> float:
    """Quantise activations to 5 bits; the squared error of what the first layer after a norm gives."""
    seen: list[Tensor] = []
    with net.blocks[0].attn.qkv.register_forward_hook(lambda layer, args, out: seen.append(out)):
        net(x)
        quantize(net, QuantSpec(method="qdrop", w_bits=32, a_bits=5))
        calibrate(net, x)
        seen[1:] = []
        net(x)
    return float((seen[1] - seen[0]).square().mean())


def test_a_norm_that_something_else_reads_stays_as_it_is() -> None:
    net = vit(depth=1).eval()
    block: Any = net.blocks[0]  # type: ignore[index]
    plain = block.forward
    block.forward = lambda x, **more: plain(x, **more) + block.norm1(x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert even_layernorms(net, images(), 4) == ["blocks.0.norm2"]
    after = net.state_dict()
    assert torch.equal(after["blocks.0.norm1.weight"], before["blocks.0.norm1.weight"])
    assert torch.equal(after["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])


def _calibrated(bits: int) -> Tensor:
    return torch.exp2(-torch.arange(40.0) / 2)


def test_clip_is_a_scaled_cosine_to_each_class() -> None:
    net = zero_shot().eval()
    with torch.no_grad():
        logits, embedded = net(images()), net.image(images())  # type: ignore[operator]
        for n in range(len(logits)):
            for c in range(5):
                cosine = torch.cosine_similarity(embedded[n], net.classes.weight[c], dim=0)  # type: ignore[index, union-attr]
                assert float(logits[n, c]) == pytest.approx(100 * float(cosine), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{name}{bits}" for name in NAMES for bits in ("", "-8bit", "-4bit")])
def test_the_registrys_transformers_are_built_and_quantised(name: str) -> None:
    """At full size, which is too much to calibrate here; the small ones above are calibrated and reconstructed."""
    entry = load()[name]
    net = create(entry)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    modules = dict(net.named_modules())
    assert entry.feature_layer in modules and archs.named_layers(net).classifier in modules
    if entry.quant is not None:
        quantized = activation_quantizers(net)
        maps = [q for q in quantized.values() if isinstance(q, Log2Activation)]
        assert len(maps) == {"convnext-t": 0}.get(name.rpartition("-")[0], 12)
        assert all(q.bits == entry.a_bits for q in maps) and set(weight_quantizers(net)) == set(layers(net))
        set_state(net, "fp")
    with torch.no_grad():
        logits = net(x)
    assert logits.shape == (1, 1000) and torch.isfinite(logits).all()


def test_each_comes_at_32_8_and_4_bits_with_timms_own_preprocessing() -> None:
    ensure_torchvision()
    import timm

    registry = load()
    for name in NAMES:
        entry = registry[name]
        arch = (
            entry.arch.removeprefix("timm:") if entry.arch.startswith("timm:") else "vit_base_patch32_clip_224.openai"
        )
        config = timm.get_pretrained_cfg(arch)
        given = entry.input
        assert (given.mean, given.std) == (config.mean, config.std) and given.resize == config.input_size[-1]
        assert (given.interpolation, given.crop_pct) == (config.interpolation, config.crop_pct)
        for bits in (8, 4):
            low = registry[f"{name}-{bits}bit"]
            assert (low.w_bits, low.a_bits, low.parent, low.input) == (bits, bits, name, entry.input)
