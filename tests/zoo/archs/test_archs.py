from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo import archs
from zoo.errors import UserError

SMALL = [name for name in archs.names() if name.endswith("-16px")]
MIXED = ["empir", "random-precision"]  # need a base; tested with their recipes
# Parameters without the classifier's bias conventions: He et al. give 0.27M, 0.46M, 0.66M, 0.85M for 20, 32, 44, 56 layers.
PUBLISHED = {"resnet20": 0.27e6, "resnet32": 0.46e6, "resnet44": 0.66e6, "resnet56": 0.85e6, "resnet18-32px": 11.17e6}


def make(name: str) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return archs.create(name, 10)


LARGE = ("squeezenet", "tiny-darknet", "inception-v3-tf")
"""Of ImageNet's size."""


def channels(name: str) -> tuple[int, int]:
    return (1, 16) if name in SMALL else (3, 96 if name in LARGE else 32)


@pytest.mark.parametrize("name", [name for name in archs.names() if name not in (*MIXED, "clip-vit-b32")])
def test_each_net_gives_logits_and_names_its_layers(name: str) -> None:
    net = make(name).eval()
    named = archs.named_layers(net)
    modules = dict(net.named_modules())
    in_chans, side = channels(name)
    seen: dict[str, torch.Tensor] = {}
    assert named.feature is not None
    modules[named.feature].register_forward_hook(lambda m, i, out: seen.update(feature=out))
    x = torch.rand(2, in_chans, side, side)
    with torch.no_grad():
        assert net(x).shape == (2, 10)
    assert isinstance(modules[named.first_conv[0]], nn.Conv2d)
    assert modules[named.first_conv[0]].in_channels == in_chans
    last = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
    assert modules[named.classifier] is last, "the classifier must be the last layer with weights"
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert modules[named.first_conv[0]] is first
    if name not in LARGE:
        assert seen["feature"].dim() == 4 and seen["feature"].shape[-1] in (side // 2, side // 4)


@pytest.mark.parametrize("name", SMALL)
def test_small_nets_are_small_and_rectified(name: str) -> None:
    net = make(name)
    assert 16_000 <= sum(p.numel() for p in net.parameters()) <= 99_000
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert not any(getattr(m, "inplace", False) for m in net.modules())


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name: str, parameters: float) -> None:
    assert sum(p.numel() for p in make(name).parameters()) == pytest.approx(parameters, rel=0.02)


def test_option_a_has_no_shortcut_parameters_and_option_b_projects() -> None:
    plain = set(archs.create("resnet20", 10, shortcut="A").state_dict())
    projected = set(archs.create("resnet20", 10, shortcut="B").state_dict())
    assert plain < projected
    assert {k.rsplit(".", 1)[0] for k in projected - plain} == {
        f"layer{s}.0.downsample.{i}" for s in (2, 3) for i in (0, 1)
    }


def test_option_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = archs.create("resnet20", 10).layer2[0]  # type: ignore[union-attr, index, operator]
    x = torch.rand(1, 16, 8, 8)
    y = block.downsample(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].eq(0).all() and y[:, 24:].eq(0).all()


def test_an_initialisation_follows_the_seed() -> None:
    a, b = make("vgg-16px").state_dict(), make("vgg-16px").state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_unknown_names_and_arguments_are_user_errors() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet20'"):
        archs.create("resnet200", 10)
    with pytest.raises(UserError, match=r"'zoo:resnet20'.*widht"):
        archs.create("resnet20", 10, widht=4)
    with pytest.raises(UserError, match="shortcut must be"):
        archs.create("resnet20", 10, shortcut="C")
