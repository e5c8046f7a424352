import copy

import pytest
import torch
from torch import nn

from tests.zoo.quant.nets import TinyNet, images, quantized, spec, tiny
from zoo import quant
from zoo.errors import UserError
from zoo.quant import modules as Q


def test_every_layer_is_quantised_and_edges_keep_their_inputs():
    net = quant.quantize(tiny(), spec())
    weights = quant.weight_quantizers(net)
    assert {n: type(q) for n, q in weights.items()} == {
        "stem": Q.EdgeWeight, "depthwise": Q.ApotWeight, "bottleneck": Q.ApotWeight,
        "expand": Q.ApotWeight, "hidden": Q.ApotWeight, "head": Q.EdgeWeight,
    }  # fmt: skip
    assert list(quant.activation_quantizers(net)) == ["depthwise", "bottleneck", "expand", "hidden"]


@pytest.mark.parametrize("method", ["apot", "uniform"])
@pytest.mark.parametrize("bits", [2, 4])
def test_layers_compute_with_weights_and_inputs_on_the_grid(method, bits):
    net = quantized(method, bits, bits)
    seen = {}
    net.expand.register_forward_hook(lambda m, args, out: seen.update(x=args[0]))
    net(images())
    assert len(net.expand.weight.unique()) <= 2**bits
    assert len(seen["x"].unique()) <= 2**bits
    assert len(net.stem.weight.unique()) > 2**bits


def test_data_decide_whether_a_range_is_signed():
    quantizers = quant.activation_quantizers(quantized())
    assert {n: bool(q.signed) for n, q in quantizers.items()} == {
        "depthwise": False, "bottleneck": True, "expand": False, "hidden": False,
    }  # fmt: skip
    assert all(q.calibrated for q in quantizers.values())


def test_unsigned_range_refuses_negative_input():
    net = quant.quantize(tiny(), spec())
    with pytest.raises(UserError, match=r"'bottleneck'.*unsigned.*signed=None"):
        quant.calibrate(net, images(), signed=False)


def test_running_before_calibration_is_refused():
    with pytest.raises(UserError, match="calibrate"):
        quant.quantize(tiny(), spec())(images())


@pytest.mark.parametrize("x", [images()[:0], images() * torch.nan, images().to(torch.int64)])
def test_useless_calibration_images_are_refused(x):
    with pytest.raises(UserError):
        quant.calibrate(quant.quantize(tiny(), spec()), x)


def test_nan_weights_are_refused():
    net = tiny()
    nn.init.constant_(net.expand.weight, float("nan"))
    with pytest.raises(UserError, match=r"'expand'.*NaN"):
        quant.quantize(net, spec())


@pytest.mark.parametrize(
    ("method", "w", "a", "said"),
    [("apot", 1, 2, "w_bits=1"), ("apot", 8, 2, "uniform"), ("apot", 2, 7, "a_bits=7"), ("uniform", 9, 8, "w_bits=9")],
)
def test_impossible_bitwidths_name_the_choices(method, w, a, said):
    with pytest.raises(UserError, match=said) as caught:
        quant.quantize(tiny(), spec(method, w, a))
    assert "choose one of" in str(caught.value)


def test_quantising_twice_is_refused():
    with pytest.raises(UserError, match="already"):
        quant.quantize(quant.quantize(tiny(), spec()), spec())


def test_unknown_edge_layer_is_refused():
    with pytest.raises(UserError, match="'conv9'"):
        quant.quantize(tiny(), spec(), last="conv9")


def test_edge_layers_fall_back_to_first_and_last():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    assert quant.edge_layers(net) == (("0",), ("4",))


def test_32_bits_leave_weights_or_activations_alone():
    net = quant.quantize(tiny(), spec(w=32, a=2, edge=32))
    assert not quant.weight_quantizers(net)
    net = quant.quantize(tiny(), spec(w=2, a=32))
    assert not quant.activation_quantizers(net)


def test_states_switch_what_is_quantised():
    plain, net = tiny(), quantized()
    plain.load_state_dict(dict(zip(plain.state_dict(), _plain_tensors(net), strict=True)))
    logits = {}
    for state in quant.STATES:
        quant.set_state(net, state)
        logits[state] = net(images())
    assert torch.equal(logits["fp"], plain(images()))
    values = list(logits.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    with pytest.raises(UserError, match="wa"):
        quant.set_state(net, "aw")
    with pytest.raises(UserError, match="needs a quantised model"):
        quant.set_state(tiny(), "wa")


def _plain_tensors(net):
    kept = (k for k in TinyNet().state_dict())
    state = net.state_dict()
    for key in kept:
        module, name = key.rsplit(".", 1)
        yield state.get(f"{module}.parametrizations.{name}.original", state.get(key))


@pytest.mark.parametrize("method", ["apot", "uniform"])
def test_frozen_quantises_each_weight_once_and_restores(method, monkeypatch):
    net = quantized(method)
    expected = {}
    for state in quant.STATES:
        quant.set_state(net, state)
        expected[state] = net(images())
    quant.set_state(net, "wa")
    net.head.parametrizations.weight.original.requires_grad_(False)
    before = [p.requires_grad for p in net.parameters()]
    calls = []
    for kind in {type(q) for q in quant.weight_quantizers(net).values()}:
        original = kind.quantize
        monkeypatch.setattr(kind, "quantize", lambda self, w, f=original: (calls.append(self), f(self, w))[1])
    with quant.frozen(net):
        assert not any(p.requires_grad for p in net.parameters())
        for state in ("wa", "fp", "w", "a", "wa", "w"):
            quant.set_state(net, state)
            assert torch.equal(net(images()), expected[state])
        with quant.frozen(net):
            net(images())
        net(images())
    assert len(calls) == len(set(calls)) == 6
    assert [p.requires_grad for p in net.parameters()] == before
    net(images())
    assert len(calls) == 12


def test_frozen_notices_weights_loaded_inside():
    net, other = quantized(), quantized()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4)))
    with quant.frozen(net), torch.no_grad():
        assert not torch.equal(net(images()), other(images()))
        net.load_state_dict(other.state_dict())
        assert torch.equal(net(images()), other(images()))


def test_frozen_refuses_training_mode():
    with pytest.raises(UserError, match="evaluation"), quant.frozen(quantized().train()):
        pass


def test_frozen_gradient_equals_the_plain_one():
    net = quantized()
    x = images().requires_grad_()
    plain = torch.autograd.grad(net(x).square().sum(), x)[0]
    with quant.frozen(net):
        fast = torch.autograd.grad(net(x).square().sum(), x)[0]
    assert torch.equal(plain, fast)
    assert plain.abs().sum() > 0


@pytest.mark.parametrize("method", ["apot", "uniform"])
def test_training_reaches_every_parameter_and_lowers_the_loss(method):
    net = quantized(method, 3, 3).train()
    x, y = images(16), torch.arange(16) % 5
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


def test_deep_copy_and_state_dict_round_trip():
    net = quantized()
    expected = net(images())
    twin = copy.deepcopy(net)
    assert torch.equal(twin(images()), expected)
    with torch.no_grad():
        twin.expand.parametrizations.weight.original.mul_(torch.randn(12, 8, 3, 3))
    assert torch.equal(net(images()), expected)
    fresh = quant.quantize(tiny(3), spec())
    fresh.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(fresh(images()), expected)


def test_copy_made_inside_a_session_can_be_trained():
    net = quantized()
    with quant.frozen(net):
        net(images())
        twin = copy.deepcopy(net)
    for p in twin.parameters():
        p.requires_grad_(True)
    twin(images()).sum().backward()
    assert twin.expand.parametrizations.weight.original.grad.abs().sum() > 0


def test_calibration_leaves_statistics_modes_and_hooks_as_they_were():
    net = quant.quantize(tiny(), spec()).train()
    net.bn2.eval()
    mean = net.bn1.running_mean.clone()
    quant.calibrate(net, images())
    assert torch.equal(net.bn1.running_mean, mean)
    assert net.bn1.momentum == 0.1
    assert net.training and not net.bn2.training
    assert all(not q._forward_pre_hooks for q in quant.activation_quantizers(net).values())


def test_batchnorm_statistics_are_the_average_over_the_batches():
    net = quantized()
    batches = [images(8, seed) for seed in (5, 6)]
    quant.reestimate_batchnorm(net, batches)
    inputs = []
    net.bn1.register_forward_pre_hook(lambda m, args: inputs.append(args[0]))
    for batch in batches:
        net(batch)
    expected = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(net.bn1.running_mean, expected)
    assert net.bn1.momentum == 0.1 and not net.training
    with pytest.raises(UserError, match="no batches"):
        quant.reestimate_batchnorm(net, [])


def test_networks_without_normalisation_keep_their_scale():
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4)
        )  # fmt: skip

    with torch.random.fork_rng():
        net = quant.quantize(make(0).eval(), spec("apot", 4, 4))
        twin = quant.quantize(make(1).eval(), spec("apot", 4, 4))
    quant.calibrate(net, images())
    latent = quant.latent_weight(net[2])
    centred = latent - latent.mean()
    assert (net[2].weight - centred).norm() < 0.5 * centred.norm()
    twin.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(twin(images()), net(images()))
    quant.unpack(twin, *quant.pack(net))
    assert torch.equal(twin(images()), net(images()))
    assert all(q.gain is None for q in quant.weight_quantizers(quantized()).values() if isinstance(q, Q.ApotWeight))
