import copy

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.quant.nets import images, spec, tiny
from tests.zoo.quant.test_fold import with_statistics
from zoo import quant
from zoo.errors import UserError
from zoo.quant import quantize, set_state
from zoo.quant.fold import fold_batchnorm
from zoo.quant.ptq import _capture, _in_order, _mixed, _Unit, find_units
from zoo.quant.rounding import DroppingActivation, RoundedWeight, best_range
from zoo.registry.entry import QuantSpec

FAST = quant.QDrop(iterations=60, rounding_lr=5e-2, step_lr=1e-3, calibration=32)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class Plain(nn.Sequential):
    """Layers in a row, and a residual block."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(inplace=True),
            nn.Sequential(Block(8)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip


def make(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = with_statistics(tiny() if kind == "tiny" else Plain())
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data.mul_(2)  # default initialisation makes signals vanish, and with them any error
    return net


def rounded(kind: str, w: int, a: int) -> nn.Module:
    net = quant.quantize(make(kind), spec("qdrop", w, a))
    quant.set_state(net, "fp")
    quant.calibrate(net, images(64))
    quant.set_state(net, "wa")
    return net


def error(net: nn.Module, kind: str) -> float:
    with torch.no_grad():
        return (net(images(64, seed=9)) - make(kind)(images(64, seed=9))).square().mean().item()


@pytest.mark.parametrize("kind", ["tiny", "plain"])
@pytest.mark.parametrize("bits", [2, 4])
def test_qdrop_beats_plain_rounding(kind, bits):
    plain = error(rounded(kind, bits, bits), kind)
    learned = error(quant.qdrop(make(kind), spec("qdrop", bits, bits), images(64), FAST), kind)
    assert learned < 0.9 * plain


@pytest.mark.parametrize("kind", ["tiny", "plain"])
def test_eight_bits_are_close_to_full_precision(kind):
    net = quant.qdrop(make(kind), spec("qdrop", 8, 8), images(64), FAST)
    expected = make(kind)(images(64, seed=9))
    assert error(net, kind) < 1e-3 * expected.var().item()


def test_full_precision_weights_are_kept_for_the_state_fp():
    net = quant.qdrop(make("tiny"), spec("qdrop", 2, 2), images(64), FAST)
    x = images(8, seed=9)
    quantized = net(x)
    quant.set_state(net, "fp")
    torch.testing.assert_close(net(x), make("tiny")(x), atol=1e-4, rtol=1e-3)
    quant.set_state(net, "wa")
    assert torch.equal(net(x), quantized)
    with quant.frozen(net):
        assert torch.equal(net(x), quantized)


def test_every_weight_is_on_its_channels_grid_and_edges_have_eight_bits():
    net = quant.qdrop(make("tiny"), spec("qdrop", 2, 2), images(64), FAST)
    for channel in net.expand.weight:
        assert len(channel.unique()) <= 4
    weights, inputs = quant.weight_quantizers(net), quant.activation_quantizers(net)
    assert [weights[n].bits for n in ("stem", "expand", "head")] == [8, 2, 8]
    assert {n: q.bits for n, q in inputs.items()} == {
        "depthwise": 2,
        "bottleneck": 2,
        "expand": 2,
        "hidden": 2,
        "head": 8,
    }
    assert int(inputs["bottleneck"].zero) > 0 and int(inputs["expand"].zero) == 0


def test_the_result_is_the_same_for_the_same_seed():
    a, b = (quant.qdrop(make("plain"), spec("qdrop", 2, 2), images(32), FAST) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_saved_nets_load_into_a_freshly_quantised_one(tmp_path, packed):
    net = quant.qdrop(make("tiny"), spec("qdrop", 3, 4), images(64), FAST)
    quant.save(net, tmp_path / "a.safetensors", packed=packed)
    twin = quant.quantize(tiny(4), spec("qdrop", 3, 4))
    quant.load_into(twin, tmp_path / "a.safetensors")
    x = images(8, seed=9)
    assert torch.equal(twin(x), net(x))
    if not packed:
        quant.set_state(twin, "fp")
        quant.set_state(net, "fp")
        assert torch.equal(twin(x), net(x))


def test_nothing_is_left_behind():
    net = make("plain")
    required = [p.requires_grad for p in net.parameters()]
    hooks = len(list(net.modules()))
    finished = []
    quant.qdrop(net, spec("qdrop", 4, 4), images(16), FAST, progress=lambda *row: finished.append(row))
    assert [row[0] for row in finished] == ["0", "3", "5.0", "8"]
    assert [row[1:3] for row in finished] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not any(m._forward_hooks for m in net.modules())
    assert all(q.drop == 0 and q.generator is None for q in quant.activation_quantizers(net).values())
    assert all(q.relaxed is None for q in quant.weight_quantizers(net).values())
    assert all(required) and hooks and all(p.requires_grad for p in net.parameters())
    copy.deepcopy(net)(images())


def test_random_dropping_mixes_values_per_element():
    quantizer = DroppingActivation(2)
    x = images(64).relu()
    quantizer.calibrate(x, None)
    q = quantizer(x)
    quantizer.drop, quantizer.generator = 0.5, torch.Generator().manual_seed(0)
    mixed = quantizer(x)
    changed = q != x
    share = (mixed == x)[changed].float().mean()
    assert 0.47 < share < 0.53
    assert torch.equal(mixed[mixed != x], q[mixed != x])


@pytest.mark.parametrize("drop", [0.0, 0.25, 1.0])
def test_inputs_of_a_block_and_activations_inside_it_drop_alike(drop):
    x = images(64).relu()
    quantizer = DroppingActivation(2)
    quantizer.calibrate(x, None)
    q = quantizer(x)
    quantizer.drop, quantizer.generator = drop, torch.Generator().manual_seed(0)
    for mixed in (quantizer(x), _mixed(q, x, drop, torch.Generator().manual_seed(0))):
        assert (mixed == x)[q != x].float().mean() == pytest.approx(drop, abs=0.02)
        assert torch.equal(mixed[mixed != x], q[mixed != x])


def test_soft_rounding_starts_at_the_weight_and_hardens_to_a_neighbour():
    w = images(1).flatten()[:96].view(4, 24)
    quantizer = RoundedWeight(4, w)
    quantizer.initialize(w)
    quantizer.relax(w)
    soft = quantizer.quantize(w)
    inside = (quantizer.codes(w).unit[:, None] * 0.2 < (soft - w).abs()).float().mean()
    assert inside < 0.1  # only clipped values differ by more
    quantizer.harden(w)
    hard = quantizer.quantize(w)
    assert ((hard - soft).abs() <= quantizer.unit[:, None]).all()


def test_best_range_equals_a_brute_force_search():
    rows = torch.randn(2, 200, generator=torch.Generator().manual_seed(0)) + 0.3
    unit, zero = best_range(rows, 3)
    for row, u, z in zip(rows, unit, zero, strict=True):

        def loss(u, z, row=row):
            return (((row / u).round() + z).clamp(0, 7).sub(z).mul(u) - row).abs().pow(2.4).sum()

        width = row.max() - row.min()
        brute = min(loss(width * k / 200 / 7, float(shift)) for k in range(1, 201) for shift in range(8))
        assert loss(u, z) <= brute * 1.02


@pytest.mark.parametrize("bad", ["method", "empty"])
def test_wrong_use_is_refused(bad):
    with pytest.raises(UserError):
        if bad == "method":
            quant.qdrop(make("tiny"), spec("apot"), images())
        else:
            quant.qdrop(make("tiny"), spec("qdrop", 4, 4), images()[:0])


@pytest.mark.parametrize("output", [False, True])
def test_maps_of_all_images_are_kept_off_the_device(monkeypatch, output):
    """The meta device stands for a GPU, from which nothing can be copied but in name."""
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, *_: self)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(6, 5)).to("meta")
    unit = _Unit("0", net[0], net[1], {}, {})
    with torch.no_grad():
        kept, goal = _capture(net, unit, torch.empty(7, 3, 8, 8, device="meta"), 3, output=output)
    assert kept.device.type == goal.device.type == "cpu"
    assert kept.shape == (7, 3, 8, 8) and goal.shape == ((7, 8, 6, 6) if output else (0,))


def test_large_modules_are_taken_apart():
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(20))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for conv in self.convs:
                x = conv(x).relu()
            return x

    net = quant.quantize(
        nn.Sequential(nn.Conv2d(3, 3, 1), Wide(), nn.Flatten(), nn.Linear(192, 2)), spec("qdrop", 4, 4)
    )
    assert find_units(net) == ["0", *(f"1.convs.{i}" for i in range(20)), "3"]


class _Stem(nn.Module):
    """A stem whose activation stands beside it, as in timm's networks, a residual block, and a last convolution likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.act1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(inplace=True)
        self.blocks = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1)))
        self.conv_head, self.act2 = nn.Conv2d(4, 8, 1), nn.ReLU()
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_stem(x)))
        x = x + self.blocks(x)
        return self.classifier(self.act2(self.conv_head(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_layer_is_reconstructed_with_the_activation_that_is_fed_its_output() -> None:
    net = _Stem().eval()
    fold_batchnorm(net, torch.rand(1, 3, 8, 8))
    quantize(net, QuantSpec(method="qdrop", w_bits=4, a_bits=4))
    set_state(net, "fp")
    units = _in_order(net, find_units(net), torch.rand(1, 3, 8, 8))
    after = {unit.name: type(unit.after).__name__ for unit in units}
    assert list(after) == ["conv_stem", "blocks.0.0", "blocks.0.2", "conv_head", "classifier"]
    assert list(after.values()) == ["ReLU6", "SiLU", "Identity", "ReLU", "Identity"]
