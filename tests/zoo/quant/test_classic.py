import pytest
import torch
from torch import nn

from tests.zoo.quant.nets import images, spec, tiny
from zoo import quant
from zoo.errors import UserError
from zoo.quant import functional as F
from zoo.quant.classic import BnnWeight, DorefaActivation, PactActivation, SignActivation

T = torch.tensor


def test_dorefa_weights_by_hand():
    w = T([-2.0, -0.1, 0.3, 1.0], requires_grad=True)
    q = F.dorefa_weight(w, 2)
    share = torch.tanh(w.detach()) / (2 * torch.tanh(T(2.0))) + 0.5
    torch.testing.assert_close(q, 2 * (share * 3).round() / 3 - 1)
    q.sum().backward()
    torch.testing.assert_close(w.grad, (1 - torch.tanh(w.detach()) ** 2) / torch.tanh(T(2.0)))


def test_one_bit_dorefa_weights_are_signs_times_the_mean_magnitude():
    q = F.dorefa_weight(T([-2.0, -0.5, 0.0, 1.5]), 1)
    assert q.tolist() == [-1, -1, 1, 1]


def test_dorefa_activations_by_hand():
    quantizer = DorefaActivation(2)
    quantizer.calibrate(T([0.0, 3.0]), None)
    x = T([0.1, 0.2, 0.6, 1.7], requires_grad=True)
    q = quantizer(x)
    torch.testing.assert_close(q, T([0, 1 / 3, 2 / 3, 1]))
    q.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 0]
    quantizer.calibrate(T([-1.0, 3.0]), None)
    torch.testing.assert_close(quantizer(T([-4.0, 0.2, 0.9])), T([-1.0, 0, 1]))


def test_pact_threshold_learns_from_clipped_values_alone():
    quantizer = PactActivation(2)
    quantizer.calibrate(T([0.0, 3.0]), None)
    nn.init.constant_(quantizer.alpha, 3.0)
    x = T([0.2, 0.6, 2.4, 5.0, 7.0], requires_grad=True)
    q = quantizer(x)
    torch.testing.assert_close(q, T([0.0, 1, 2, 3, 3]))
    q.backward(T([1.0, 1, 1, 2, 3]))
    assert x.grad.tolist() == [1, 1, 1, 0, 0]
    assert quantizer.alpha.grad.item() == pytest.approx(5)


def test_xnor_weights_by_hand():
    w = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.7
    centred = (w - w.mean(1, keepdim=True)).clamp(-1, 1)
    scale = centred.abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(F.xnor_weight(w), centred.sign() * scale)


def test_xnor_gradient_is_the_papers():
    w = T([[0.5, -2.0, 0.25, -0.25]]) - 0.0
    w = w.view(4, 1).requires_grad_()  # one input channel: nothing to centre; four filters of one weight
    upstream = T([1.0, 2.0, 3.0, 4.0]).view(4, 1)
    F.xnor_weight(w).backward(upstream)
    c = w.detach().clamp(-1, 1)
    # dC/dw = upstream * (1/n + |c| where |c| < 1), n = 1; clamping blocks the second filter
    expected = upstream * (1 + c.abs()) * (w.detach().abs() <= 1)
    torch.testing.assert_close(w.grad, expected)


def test_depthwise_xnor_weights_do_not_vanish():
    w = torch.randn(3, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    assert (F.xnor_weight(w) != 0).all()


def test_bnn_weights_are_signs_with_an_unclipped_gradient():
    w = T([-3.0, 0.0, 0.2], requires_grad=True)
    q = F.bnn_weight(w)
    assert q.tolist() == [-1, 1, 1]
    q.backward(T([1.0, 2.0, 3.0]))
    assert w.grad.tolist() == [1, 2, 3]


def test_signs_of_activations_and_their_clipped_gradient():
    quantizer = SignActivation(1)
    x = T([-2.0, -0.5, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    q = quantizer(x)
    assert q.tolist() == [-1, -1, -1, 1, 1, 1]
    q.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    with pytest.raises(UserError, match="unsigned"):
        quantizer.calibrate(x, False)


CASES = [
    ("dorefa", 1, 1),
    ("dorefa", 2, 2),
    ("dorefa", 1, 2),
    ("pact", 4, 4),
    ("xnor", 1, 1),
    ("bnn", 1, 1),
    ("xnor", 1, 32),
]


@pytest.mark.parametrize(("method", "w", "a"), CASES)
def test_nets_convert_train_freeze_and_pack(method, w, a):
    def make(seed: int = 0) -> nn.Module:
        return quant.quantize(tiny(seed), spec(method, w, a, edge=1 if method == "bnn" else 8))

    net = make()
    quant.calibrate(net, images())
    quant.reestimate_batchnorm(net, [images()])
    assert len(net.hidden.weight.abs().unique()) <= max(2**w, 10)
    net.train()
    net(images(8)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    net.eval()
    expected = net(images())
    with quant.frozen(net):
        assert torch.equal(net(images()), expected)
    twin = make(5)
    tensors, meta = quant.pack(net)
    quant.unpack(twin, tensors, meta)
    assert torch.equal(twin(images()), expected)
    assert tensors["expand.weight_codes"].numel() == 12 * 8 * 9 * w // 8
    copied = make(6)
    copied.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(copied(images()), expected)


def test_bnn_binarises_edges_and_the_last_input_when_asked_to():
    net = quant.quantize(tiny(), spec("bnn", 1, 1, edge=1))
    weights, inputs = quant.weight_quantizers(net), quant.activation_quantizers(net)
    assert type(weights["stem"]) is type(weights["head"]) is BnnWeight
    assert "stem" not in inputs and isinstance(inputs["head"], SignActivation)
    net = quant.quantize(tiny(), spec("bnn", 1, 1, edge=32))
    assert "stem" not in quant.weight_quantizers(net) and "head" not in quant.activation_quantizers(net)


@pytest.mark.parametrize(
    ("method", "w", "a"), [("xnor", 2, 1), ("bnn", 1, 2), ("dorefa", 9, 2), ("pact", 1, 2), ("pact", 2, 9)]
)
def test_impossible_bitwidths_are_refused(method, w, a):
    with pytest.raises(UserError, match="choose one of"):
        quant.quantize(tiny(), spec(method, w, a))


@pytest.mark.parametrize("edge", [1, 17])
def test_impossible_edge_bits_are_refused(edge):
    with pytest.raises(UserError, match="edge_bits"):
        quant.quantize(tiny(), spec("apot", 2, 2, edge=edge))


def test_unknown_methods_are_refused():
    bad = spec().model_copy(update={"method": "apott"})
    with pytest.raises(UserError, match=r"unknown quantisation method 'apott'; did you mean 'apot'"):
        quant.quantize(tiny(), bad)


def test_latent_bnn_weights_are_clipped_after_a_step_and_others_are_not():
    from zoo.recipes.train import after_step

    for method, edge, top in (("bnn", 1, 1.0), ("xnor", 8, 3.0)):
        net = quant.quantize(tiny(), spec(method, 1, 1, edge=edge))
        for layer in (net.stem, net.expand, net.head):
            quant.convert.latent_weight(layer).data.fill_(3.0)
        after_step(net)
        for layer in (net.stem, net.expand, net.head):
            assert (quant.convert.latent_weight(layer) == top).all()
