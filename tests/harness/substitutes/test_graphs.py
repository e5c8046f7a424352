"""Passes that are replayed give what passes give: with a stand-in for CUDA graphs here, and with them on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.attacks import get
from harness.substitutes import Substitute
from harness.substitutes.graphs import KEPT, Graphs
from tests.harness.attacks.nets import EPS, images, pool, quantized, rng
from zoo.kernels import fixed

ATTACKS = ("mim", "pgd", "si", "admix", "vmi", "di", "sgm", "fia")


def replaying(function: Callable[[Tensor], Tensor], sample: tuple[Tensor]) -> Callable[[Tensor], Tensor]:
    """Stand in for torch.cuda.make_graphed_callables: logits and gradients lie in memory that each call overwrites."""
    logits, gradient = function(sample[0]).detach().clone(), torch.zeros_like(sample[0])

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            with torch.no_grad():
                logits.copy_(function(x))
            return logits.detach()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                z = x.detach().requires_grad_()
                gradient.copy_(torch.autograd.grad(function(z), z, grads[0])[0])
            return gradient.detach()

    return lambda x: Replay.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def made(crafter: Substitute, name: str, chunk: int = 2) -> Tensor:
    x, y = images()
    device = next(crafter.module.parameters()).device
    x, y = x.to(device), y.to(device)
    with crafter.session():
        attack = get(name)
        return attack(crafter, x, y, eps=EPS, steps=4, rng=type(rng())(0, range(3), device), pool=pool(), chunk=chunk)


@pytest.mark.parametrize("name", ATTACKS)
def test_replayed_passes_make_the_same_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = made(Substitute(quantized(), ("w", "wa"), feature_layer="layer1"), name)
    calls: list[tuple[int, ...]] = []

    def capture(function: Callable[[Tensor], Tensor], sample: tuple[Tensor]) -> Callable[[Tensor], Tensor]:
        calls.append(tuple(sample[0].shape))
        return replaying(function, sample)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    monkeypatch.setattr(Graphs, "suits", lambda self, x: True)
    crafter = Substitute(quantized(), ("w", "wa"), feature_layer="layer1")
    assert torch.equal(made(crafter, name), plain)
    plainly = name in ("sgm", "fia")  # these look inside the network
    assert len(calls) == (0 if plainly else 4), "one for each state and size of chunk"


def test_graphs_go_with_the_session_whose_weights_they_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", replaying)
    monkeypatch.setattr(Graphs, "suits", lambda self, x: True)
    crafter = Substitute(quantized(), ("w", "wa"))
    with crafter.session():
        made(crafter, "mim")
        made(crafter, "mim")
        assert len(crafter._graphs._made) == 4
    assert not crafter._graphs._made
    with torch.no_grad():
        next(crafter.module.parameters()).mul_(-1)
    assert not torch.equal(made(crafter, "mim"), made(Substitute(quantized(), ("w", "wa")), "mim"))


def test_a_network_that_cannot_be_captured_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object, sample: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    graphs = Graphs(nn.Flatten())
    with pytest.warns(UserWarning, match="Flatten runs without a CUDA graph: operation not permitted"):
        assert graphs.run(None, torch.rand(2, 3, 4)).shape == (2, 12)
    assert graphs.failed is not None


def test_few_graphs_are_kept_and_only_small_images_on_a_gpu_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", replaying)
    graphs = Graphs(nn.Flatten())
    for n in range(1, KEPT + 4):
        graphs.run(None, torch.rand(n, 3, 4))
    assert len(graphs._made) == KEPT
    assert not graphs.suits(torch.rand(1, 3, 32, 32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ATTACKS)
def test_graphs_equal_plain_passes_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = quantized(dtype=torch.float32).cuda()
    with fixed("cuda"):
        crafter = Substitute(copy.deepcopy(net), ("w", "wa"), feature_layer="layer1")
        replayed = made(crafter, name)
        assert crafter._graphs.failed is None
        monkeypatch.setattr(Graphs, "suits", lambda self, x: False)
        plain = made(Substitute(net, ("w", "wa"), feature_layer="layer1"), name)
    assert replayed.is_cuda and torch.equal(replayed, plain)
