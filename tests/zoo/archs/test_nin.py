"""XNOR-Net's NIN computes what its authors' description says, layer by layer, and drops out after the sign."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.archs.nin import MIN_GAIN, XnorNin
from zoo.quant import calibrate, quantize, set_state
from zoo.registry.entry import QuantSpec

WIDTHS = ((6, 5, 4), (6, 6, 6), (5, 4))


def made() -> XnorNin:
    torch.manual_seed(0)
    net = XnorNin(10, 3, WIDTHS)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return net.eval()


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """bn -> sign -> conv -> relu with W = sign(c) * mean|c|, c the weight centred over its input channels and clamped."""

    def norm(x: Tensor, name: str) -> Tensor:
        moments = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, *moments, state.get(f"{name}.weight"), state.get(f"{name}.bias"), eps=1e-4)

    def binary(x: Tensor, name: str, padding: int) -> Tensor:
        w = state[f"{name}.conv.weight"]
        c = (w - w.mean(1, keepdim=True)).clamp(-1, 1)
        w = torch.where(c >= 0, 1.0, -1.0) * c.abs().mean((1, 2, 3), keepdim=True)
        signs = torch.where(norm(x, f"{name}.bn") >= 0, 1.0, -1.0)
        return F.conv2d(signs, w, state[f"{name}.conv.bias"], padding=padding).relu()

    x = norm(F.conv2d(x, state["stage1.0.conv.weight"], padding=2), "stage1.0.bn").relu()
    x = F.max_pool2d(binary(binary(x, "stage1.1", 0), "stage1.2", 0), 3, 2, padding=1)
    for name, padding in (("stage2.0", 2), ("stage2.1", 0), ("stage2.2", 0), ("stage2.3", 0)):
        x = binary(x, name, padding) if f"{name}.conv.weight" in state else x
    x = F.avg_pool2d(x, 3, 2, padding=1)
    for name, padding in (("stage3.0", 1), ("stage3.1", 0)):
        x = binary(x, name, padding) if f"{name}.conv.weight" in state else x
    maps = F.conv2d(norm(x, "neck"), state["head.weight"], state["head.bias"]).relu()
    return maps.mean((2, 3))


def binarised() -> tuple[XnorNin, dict[str, Tensor]]:
    net = made()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    quantize(net, QuantSpec(method="xnor", w_bits=1, a_bits=1, edge_bits=32))
    calibrate(net, torch.rand(2, 3, 32, 32))
    set_state(net, "wa")
    return net, state


def test_it_computes_what_the_source_describes() -> None:
    net, state = binarised()
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(x), reference(state, x), rtol=1e-4, atol=1e-5)


def test_half_of_the_signs_are_dropped_and_nothing_else() -> None:
    net, _ = binarised()
    seen: dict[str, Tensor] = {}
    original = F.conv2d
    names = {id(net.get_submodule(f"{stage}.0.conv")): stage for stage in ("stage2", "stage3")}
    net.train()
    for stage in names.values():
        layer = net.get_submodule(f"{stage}.0.conv")
        layer._conv_forward = (  # type: ignore[assignment, method-assign]
            lambda x, w, b, stage=stage, layer=layer: seen.setdefault(stage, x) is None
            or original(x, w, b, layer.stride, layer.padding)
        )
    net(torch.rand(4, 3, 32, 32))
    for stage in ("stage2", "stage3"):
        assert set(seen[stage].unique().tolist()) == {-2.0, 0.0, 2.0}, stage
        assert 0.4 < float((seen[stage] == 0).float().mean()) < 0.6


def test_norms_are_those_of_the_source() -> None:
    net = made()
    assert not net.stage1[0].bn.affine and not net.neck.affine
    norm = net.stage2[0].bn
    with torch.no_grad():
        norm.weight.fill_(-1.0)
    net.train()(torch.rand(2, 3, 32, 32))
    assert torch.equal(norm.weight, torch.full_like(norm.weight, MIN_GAIN))
