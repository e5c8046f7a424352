"""Learning methods against literal transcriptions of their papers: QDrop's reconstruction, LSQ's gradient, BNN's last norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.quant.nets import images, spec
from tests.zoo.quant.test_ptq import make
from zoo import archs, quant
from zoo.quant.fold import fold_batchnorm
from zoo.quant.modules import UniformActivation
from zoo.quant.ptq import _in_order, _learn, _reconstruct, _switch, _Unit, find_units
from zoo.quant.rounding import RoundedWeight

SETTINGS = quant.QDrop(
    iterations=40, rounding_lr=3e-2, step_lr=2e-3, regulariser=0.02, warmup=0.2, drop=0.4, batch_size=16
)


def block() -> tuple[_Unit, Tensor, Tensor, Tensor]:
    """A residual block of two convolutions with its quantised and full-precision inputs and the output it should have."""
    net = make("plain").eval()
    x = images(48)
    fold_batchnorm(net, x[:1])
    quant.quantize(net, spec("qdrop", 3, 3))
    quant.set_state(net, "fp")
    quant.calibrate(net, x)
    units = {unit.name: unit for unit in _in_order(net, find_units(net), x[:1])}
    unit = units["5.0"]
    with torch.no_grad():
        wanted = nn.Sequential(*list(net)[:5])(x)
        goal = unit.after(unit.module(wanted))
    unit.module.double()  # so that the order of a sum cannot tip a rounding, and with it all that follows
    wanted, goal = wanted.double(), goal.double()
    noise = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3))
    _switch(unit, on=True)
    return unit, (wanted + 0.05 * noise).detach(), wanted, goal


def stepped(x: Tensor, step: Tensor, zero: int, bits: int) -> Tensor:
    """LSQ's quantiser (Esser et al., Eqs. 1 to 3) with an offset: clip, then round, with a gradient straight through."""
    u = (x / step).clamp(-zero, 2**bits - 1 - zero)
    return (u + (u.round() - u).detach()) * step


def transcribed(unit: _Unit, given: Tensor, wanted: Tensor, goal: Tensor, generator: torch.Generator) -> list[Tensor]:
    """QDrop (Wei et al., Alg. 1) on AdaRound's relaxation (Nagel et al., Eqs. 21 to 25), with this file's own arithmetic."""
    s, first, second = SETTINGS, unit.module.conv1, unit.module.conv2
    names = [f"{unit.name}.conv1", f"{unit.name}.conv2"]
    weights = [first.parametrizations.weight.original.detach(), second.parametrizations.weight.original.detach()]
    units = [unit.weights[name].unit.view(-1, 1, 1, 1) for name in names]
    zeros = [unit.weights[name].zero.view(-1, 1, 1, 1) for name in names]
    floors = [(w / unit).floor() for w, unit in zip(weights, units, strict=True)]
    inner = [
        torch.log((p + 0.1) / (1.1 - p))
        for p in ((w / u - f).clamp(1e-3, 0.999) for w, u, f in zip(weights, units, floors, strict=True))
    ]
    v = [p.clone().requires_grad_(True) for p in inner]
    steps = [unit.inputs[name].step.detach().clone().requires_grad_(True) for name in names]
    offsets = [int(unit.inputs[name].zero) for name in names]
    rounding = torch.optim.Adam(v, lr=s.rounding_lr)
    widths = torch.optim.Adam(steps, lr=s.step_lr)

    def h(value: Tensor) -> Tensor:
        return (torch.sigmoid(value) * (1.1 + 0.1) - 0.1).clamp(0, 1)

    def dropped(x: Tensor, step: Tensor, offset: int) -> Tensor:
        keep = torch.rand(x.shape, generator=generator) < s.drop
        return torch.where(keep, x, stepped(x, step, offset, 3))

    def layer(x: Tensor, index: int, conv: nn.Module) -> Tensor:
        soft = ((floors[index] + h(v[index]) + zeros[index]).clamp(0, 7) - zeros[index]) * units[index]
        return F.conv2d(dropped(x, steps[index], offsets[index]), soft, conv.bias, padding=1)

    for iteration in range(s.iterations):
        chosen = torch.randint(48, (16,), generator=generator)
        quantised = torch.rand(given[chosen].shape, generator=generator) < 1 - s.drop
        x = torch.where(quantised, given[chosen], wanted[chosen])
        out = (x + layer(layer(x, 0, first).relu(), 1, second)).relu()
        loss = (out - goal[chosen]).pow(2).sum(1).mean()
        begin = s.warmup * s.iterations
        if iteration >= begin:
            b = 20 - (20 - 2) * (iteration - begin) / (s.iterations - begin)
            loss = loss + s.regulariser * sum((1 - (2 * h(value) - 1).abs() ** b).sum() for value in v)
        for optimizer in (rounding, widths):
            optimizer.zero_grad()
        for group in widths.param_groups:
            group["lr"] = s.step_lr * (1 + math.cos(math.pi * iteration / s.iterations)) / 2
        loss.backward()
        rounding.step()
        widths.step()
    return [*(value.detach() for value in v), *(step.detach() for step in steps)]


def test_qdrop_learns_what_its_paper_says(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, given, wanted, goal = block()
    expected = transcribed(unit, given, wanted, goal, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    monkeypatch.setattr(RoundedWeight, "harden", lambda self, w: None)  # keep what was learned
    for activation in unit.inputs.values():
        activation.drop, activation.generator = SETTINGS.drop, generator
    before = [activation.step.detach().clone() for activation in unit.inputs.values()]
    _learn(unit, given, wanted, goal, SETTINGS, generator)
    learned = [unit.weights[f"{unit.name}.{name}"].relaxed for name in ("conv1", "conv2")]
    steps = [unit.inputs[f"{unit.name}.{name}"].step for name in ("conv1", "conv2")]
    for found, wish in zip([*learned, *steps], expected, strict=True):
        torch.testing.assert_close(found.detach(), wish, atol=1e-7, rtol=1e-6)
    assert all(float((a - b.detach()).abs()) > 1e-3 for a, b in zip(before, steps, strict=True)), (
        "steps are learned too"
    )


def test_activations_drop_while_a_unit_learns_and_not_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.quant import ptq

    unit, given, wanted, goal = block()
    seen: list[float] = []

    def learn(unit: _Unit, *rest: object) -> None:
        seen.extend(activation.drop for activation in unit.inputs.values())

    monkeypatch.setattr(ptq, "_learn", learn)
    _reconstruct(unit, given, wanted, goal, SETTINGS, torch.Generator().manual_seed(0))
    assert seen == [SETTINGS.drop] * 2 and all(activation.drop == 0 for activation in unit.inputs.values())


def test_a_unit_that_learning_makes_worse_is_rounded_to_the_nearest() -> None:
    unit, given, wanted, goal = block()
    quantizers = [*unit.weights.values(), *unit.inputs.values()]
    before = [{key: value.clone() for key, value in q.state_dict().items()} for q in quantizers]
    wild = quant.QDrop(iterations=10, rounding_lr=50.0, step_lr=2.0, batch_size=16)
    error = _reconstruct(unit, given, wanted, goal, wild, torch.Generator().manual_seed(0))
    for quantizer, state in zip(quantizers, before, strict=True):
        for key, value in quantizer.state_dict().items():
            assert torch.equal(value, state[key]), key
    with torch.no_grad():
        assert error == pytest.approx(float((unit.after(unit.module(given)) - goal).square().mean()), rel=1e-5)


def test_lsq_scales_the_gradient_of_an_activation_step() -> None:
    """Esser et al., Sec. 2.2: g = 1 / sqrt(N_F * Q_P), N_F the features of one image, for the step of activations as well."""
    quantizer = UniformActivation(3)
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0)).relu()
    quantizer.calibrate(x, None)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    quantizer(x).backward(upstream)
    plain = quantizer.step.detach().clone().requires_grad_(True)
    stepped(x, plain, 0, 3).backward(upstream)
    assert quantizer.step.grad is not None and plain.grad is not None
    assert float(quantizer.step.grad) == pytest.approx(float(plain.grad) / math.sqrt(2 * 5 * 5 * 7), rel=1e-5)


def test_bnns_logits_are_normalised() -> None:
    """Hubara et al., Sec. 4.1: the last layer is followed by batch normalisation; sums of +-1 are too large for a softmax."""
    net = archs.create("alexnet-bnn-32px", 10).train()
    logits = net(torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(logits.mean(0), torch.zeros(10), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.var(0, unbiased=False), torch.ones(10), atol=0.02, rtol=0)
