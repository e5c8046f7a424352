"""Every architecture of the paper is quantised as it is, without a change to its code, and has gradients to attack with."""

from __future__ import annotations

import pytest
import torch

from zoo._compat import ensure_torchvision
from zoo.quant import calibrate, frozen, is_quantized, pack, quantize, reestimate_batchnorm, set_state, unpack
from zoo.registry.entry import QuantSpec

QUICK = ["resnet18", "mobilenetv2_100"]
SLOW = [
    "resnet34",
    "resnet50",
    "resnet152",
    "vgg16",
    "vgg19",
    "densenet121",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
]
SPECS = {
    "apot-2bit": QuantSpec(method="apot", w_bits=2, a_bits=2),
    "uniform-8bit": QuantSpec(method="uniform", w_bits=8, a_bits=8),
}


def check(name: str, spec: QuantSpec) -> None:
    ensure_torchvision()
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=7).train()
        x = torch.randn(4, 3, 96, 96)
        with torch.no_grad():
            net(x)  # statistics of its own, so that signals neither vanish nor explode
        net.eval()
        quantize(net, spec)
        calibrate(net, x)
        reestimate_batchnorm(net, [x])  # low-bit weights have another scale in every layer
        tensors, meta = pack(net)
        packed = quantize(timm.create_model(name, num_classes=7).eval(), spec)
    unpack(packed, tensors, meta)
    assert is_quantized(net)
    with torch.no_grad():
        set_state(net, "wa")
        expected = net(x)
        assert torch.isfinite(expected).all() and torch.equal(packed(x), expected)
    x = x.requires_grad_()
    with frozen(net):
        for state in ("w", "wa"):
            set_state(net, state)
            (gradient,) = torch.autograd.grad(net(x).square().sum(), x)
            assert torch.isfinite(gradient).all() and gradient.abs().max() > 0, state


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", QUICK)
def test_an_architecture_is_quantised_packed_and_differentiated(name: str, spec: str) -> None:
    check(name, SPECS[spec])


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", SLOW)
def test_every_architecture_of_the_paper_is_quantised_packed_and_differentiated(name: str, spec: str) -> None:
    check(name, SPECS[spec])
