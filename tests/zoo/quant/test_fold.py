import pytest
import torch
from torch import nn

from tests.zoo.quant.nets import images, tiny
from zoo import quant
from zoo._compat import ensure_torchvision
from zoo.errors import UserError


def with_statistics(net: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=draw) * 0.2)
            module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=draw) * 0.2)
    return net.eval()


def test_folding_keeps_the_output_with_and_without_a_bias():
    net = with_statistics(tiny())
    expected = net(images())
    assert quant.fold_batchnorm(net, images()) == ["bn1", "bn2"]
    assert isinstance(net.bn1, nn.Identity) and net.stem.bias is not None
    torch.testing.assert_close(net(images()), expected, atol=1e-5, rtol=1e-4)
    assert quant.fold_batchnorm(net) == []


def test_batchnorm_with_activation_keeps_the_activation():
    ensure_torchvision()
    from timm.layers import BatchNormAct2d

    net = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 2, 1)))
    expected = net(images())
    assert quant.fold_batchnorm(net) == ["1"]
    assert isinstance(net[1], nn.ReLU)
    torch.testing.assert_close(net(images()), expected, atol=1e-5, rtol=1e-4)


def test_norms_after_anything_but_a_convolution_stay():
    net = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    assert quant.fold_batchnorm(net) == []
    assert isinstance(net[2], nn.BatchNorm2d)


class ReusedOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.bn(y)


def test_a_convolution_used_outside_its_norm_is_noticed():
    with pytest.raises(UserError, match="used outside its norm"):
        quant.fold_batchnorm(with_statistics(ReusedOutput()), check=True)


def test_shared_convolutions_are_left_alone():
    conv = nn.Conv2d(3, 3, 1)
    net = with_statistics(nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3)))
    expected = net(images())
    assert quant.fold_batchnorm(net) == []
    assert torch.equal(net(images()), expected)


def test_modes_are_restored():
    net = with_statistics(tiny()).train()
    net.hidden.eval()
    quant.fold_batchnorm(net)
    assert net.training and not net.hidden.training
