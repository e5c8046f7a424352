"""1-bit nets are trained from nothing by the recipe of the registry, with Adam."""

from __future__ import annotations

import pytest
import torch

from tests.zoo.recipes.conftest import TWO_BITS, Builder, make_entry
from zoo.quant import set_state, states
from zoo.quant.convert import latent_weight, layers
from zoo.registry.entry import QuantSpec


@pytest.mark.parametrize("method", ["xnor", "bnn"])
def test_a_binary_net_learns_and_loads(builder: Builder, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    from zoo.archs import alexnet, nin

    small = ((8, 8, 8), (8, 8, 8), (8, 8))
    original = nin.XnorNin.__init__
    monkeypatch.setattr(
        nin.XnorNin, "__init__", lambda self, classes, in_chans: original(self, classes, in_chans, small)
    )
    monkeypatch.setattr(alexnet, "CONVS", tuple((8, kernel, pooled) for _, kernel, pooled in alexnet.CONVS))
    monkeypatch.setattr(alexnet, "HIDDEN", 32)
    options = {"optimizer": "adam", "latent": True, "threads": 1}
    edge = {"xnor": 32, "bnn": 1}[method]
    entry = make_entry(
        "one", QuantSpec(method=method, w_bits=1, a_bits=1, edge_bits=edge), lr=0.01, epochs=3, options=options
    )
    arch = {"xnor": "zoo:nin-xnor", "bnn": "zoo:alexnet-bnn-32px"}[method]
    size = {"xnor": 16, "bnn": 32}[method]
    entry = entry.model_copy(
        update={"arch": arch, "arch_args": {"in_chans": 1}, "input": entry.input.model_copy(update={"resize": size})}
    )
    report = builder(entry)
    assert report.log["epochs"][-1]["loss"] < report.log["epochs"][0]["loss"]
    net = builder.load("one")
    if method == "bnn":
        assert all(float(latent_weight(layer).abs().max()) <= 1 for layer in layers(net).values())
    assert "wa" in states(net)
    set_state(net, "wa")
    with torch.no_grad():
        assert net(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_the_loop_lets_quantisers_correct_their_weights_after_each_step(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.quant.modules import ApotWeight

    calls: list[int] = []
    monkeypatch.setattr(ApotWeight, "after_step", lambda self, w: calls.append(w.numel()))
    report = builder(make_entry("one", TWO_BITS, epochs=1))
    net = builder.load("one")
    quantised = sum(isinstance(m, ApotWeight) for m in net.modules()) or len(set(calls))
    assert len(calls) >= report.log["steps"] * quantised > 0
