"""A network computes the same with its norms inside its convolutions, and is itself again afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.harness.attacks.nets import net as residual
from tests.harness.attacks.nets import quantized
from tests.zoo.quant.nets import images
from tests.zoo.quant.test_fold import ReusedOutput, with_statistics
from zoo import quant
from zoo._compat import ensure_torchvision


def outputs(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits and the gradient of one of them at x."""
    x = x.clone().requires_grad_()
    logits = net(x)
    return logits.detach(), torch.autograd.grad(logits[:, 1].sum(), x)[0]


def norms_seen(net: nn.Module, x: Tensor) -> int:
    """Count the normalisations that are computed in one pass."""
    from torch.profiler import profile

    with profile() as profiler, torch.no_grad():
        net(x)
    return sum(event.count for event in profiler.key_averages() if event.key == "aten::batch_norm")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("state", ["none", "fp", "w", "wa"])
def test_the_same_function_in_every_state(state: str, channels_last: bool) -> None:
    net = residual() if state == "none" else quantized()
    if state != "none":
        quant.set_state(net, state)  # type: ignore[arg-type]
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with quant.frozen(net):
        expected = outputs(net, x)
        assert norms_seen(net, x) == 4
        with quant.folded(net, channels_last=channels_last):
            found = outputs(net, x)
            assert norms_seen(net, x) == 0
    for there, here in zip(found, expected, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-12)


def test_states_may_be_switched_inside() -> None:
    net, x = quantized(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with quant.frozen(net):
        expected = {}
        for state in ("fp", "w", "wa"):
            quant.set_state(net, state)  # type: ignore[arg-type]
            expected[state] = net(x)
        with quant.folded(net, channels_last=True):
            for state in ("wa", "fp", "w", "wa", "fp"):
                quant.set_state(net, state)  # type: ignore[arg-type]
                torch.testing.assert_close(net(x), expected[state], rtol=1e-9, atol=1e-12)


def test_weights_and_statistics_loaded_inside_are_noticed() -> None:
    net, other, x = residual(0), residual(1), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with quant.frozen(net), quant.folded(net):
        before = net(x)
        net.load_state_dict(other.state_dict())
        torch.testing.assert_close(net(x), other(x), rtol=1e-9, atol=1e-12)
        for norm in (part for part in net.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.running_var.mul_(2)
        assert not torch.allclose(net(x), other(x)) and not torch.allclose(net(x), before)


def test_everything_is_as_before_however_it_ends() -> None:
    net, x = quantized(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    expected, state = net(x), copy.deepcopy(net.state_dict())
    with pytest.raises(RuntimeError, match="half-way"), quant.frozen(net), quant.folded(net), quant.folded(net):
        net(x)
        raise RuntimeError("half-way")
    assert torch.equal(net(x), expected) and not any("forward" in vars(part) for part in net.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_a_layer_whose_output_is_wanted_stays() -> None:
    net, x = residual(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    seen: list[Tensor] = []
    net.layer1.conv1.register_forward_hook(lambda module, args, output: seen.append(output))  # type: ignore[union-attr]
    with quant.frozen(net):
        net(x)
        with quant.folded(net, keep=("layer1.conv1",)):
            net(x)
            assert norms_seen(net, x) == 1
    torch.testing.assert_close(seen[-1], seen[0], rtol=1e-9, atol=1e-12)


def test_a_convolution_used_outside_its_norm_is_left_alone() -> None:
    net = with_statistics(nn.Sequential(ReusedOutput(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    expected = outputs(net, images())
    with quant.frozen(net), quant.folded(net):
        assert norms_seen(net, images()) == 1
        for there, here in zip(outputs(net, images()), expected, strict=True):
            torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)


def test_norms_with_an_activation_and_convolutions_without_a_norm() -> None:
    ensure_torchvision()
    from timm.layers import BatchNormAct2d

    net = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 5, 3), nn.Flatten(2)))
    expected = outputs(net, images())
    with quant.frozen(net), quant.folded(net, channels_last=True):
        for there, here in zip(outputs(net, images()), expected, strict=True):
            torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)


def test_networks_that_cannot_be_tried_out_run_as_they_are() -> None:
    net = with_statistics(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    x = torch.rand(3, 5)
    with quant.frozen(net), quant.folded(net, channels_last=True):
        assert net(x).shape == (3, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_function_on_a_gpu() -> None:
    net = quantized(dtype=torch.float64).cuda()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64).cuda()
    with quant.frozen(net):
        expected = outputs(net, x)
        with quant.folded(net):
            for there, here in zip(outputs(net, x), expected, strict=True):
                torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-12)
