"""Targets of several precisions: they are trained member by member, stored packed, and decide as published."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.zoo.recipes.conftest import Builder, make_entry
from zoo import archs
from zoo.archs.mixed import Empir, RandomPrecision
from zoo.errors import UserError
from zoo.quant import latent_weight, reestimate_batchnorm
from zoo.quant.convert import layers
from zoo.recipes.adversarial import Adversary
from zoo.recipes.plan import AdversarialOptions
from zoo.recipes.seeds import stream
from zoo.registry.entry import ModelEntry


def mixed_entry(name: str, **args: Any) -> ModelEntry:
    arch_args = {"base": "resnet8-16px", "width": 4, **args}
    entry = make_entry(name, start="fp", epochs=6)
    return entry.model_copy(update={"arch": f"zoo:{name}", "arch_args": arch_args})


@pytest.mark.parametrize("name", ["empir", "random-precision"])
def test_they_build_from_a_full_precision_start_and_load_packed(fp_builder: Builder, name: str) -> None:
    bits = (32, 4, 2) if name == "empir" else (4, 8)
    report = fp_builder(mixed_entry(name, bits=bits))
    again = fp_builder(mixed_entry(name, bits=bits), out=fp_builder.folder / "again.safetensors")
    assert report.sha256 == again.sha256 and report.accuracies.keys() == {"wa"}
    net = fp_builder.load(name)
    with torch.no_grad():
        assert net(torch.rand(5, 1, 16, 16)).shape == (5, 10)
    assert report.top1 > 30


def test_empir_averages_logits_or_counts_votes() -> None:
    net = Empir(3, "resnet8-16px", (32, 4, 2), width=4).eval()
    outputs = torch.tensor([[[3.0, 0, 0]], [[0, 1, 0]], [[0, 1, 0]]])
    for member, out in zip(net.networks(), outputs, strict=True):
        member.forward = lambda x, out=out: out  # type: ignore[method-assign, assignment, misc]
    x = torch.zeros(1, 1, 16, 16)
    assert torch.equal(net(x), outputs.mean(0)) and int(net(x).argmax()) == 0
    net.how = "vote"
    assert int(net(x).argmax()) == 1, "two of three"
    assert net(x).floor().tolist() == [[1, 2, 0]]


def test_members_train_one_at_a_time() -> None:
    net = Empir(3, "resnet8-16px", (32, 4), width=4).train()
    net.begin_step(1, torch.Generator())
    assert net.active == 1
    net.begin_step(2, torch.Generator())
    net(torch.rand(4, 1, 16, 16)).sum().backward()
    trained = [any(p.grad is not None for p in member.parameters()) for member in net.networks()]
    assert trained == [True, False]


def random_net() -> RandomPrecision:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = archs.create("random-precision", 10, base="resnet8-16px", width=4, bits=(4, 6, 8))
    assert isinstance(net, RandomPrecision)
    from zoo.quant import calibrate

    x = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for member in net.networks():
        calibrate(member, x)
        reestimate_batchnorm(member, [x])
    return net.eval()


def test_random_precision_shares_weights_but_no_statistics() -> None:
    net = random_net()
    a, b = layers(net.networks()[0]), layers(net.networks()[1])
    assert all(latent_weight(a[name]) is latent_weight(b[name]) for name in a)
    assert net.networks()[0].bn1 is not net.networks()[1].bn1
    assert sum(p.numel() for p in net.parameters()) < 2 * sum(p.numel() for p in net.networks()[0].parameters())


def test_a_drawn_precision_depends_on_image_seed_and_repeat_alone() -> None:
    net = random_net()
    x = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    drawn = net.draw(x)
    assert set(drawn.tolist()) == {0, 1, 2} and min(drawn.bincount().tolist()) >= 8
    assert torch.equal(net.draw(x[7:30]), drawn[7:30])
    with torch.no_grad():
        logits = net(x)
        for index, member in enumerate(net.networks()):
            assert torch.allclose(logits[drawn == index], member(x[drawn == index]), atol=1e-5)
    net.repeat = 1
    other = net.draw(x)
    assert int((other != drawn).sum()) > 10
    net.repeat, net.seed = 0, 1
    assert not torch.equal(net.draw(x), drawn)
    net.repeat = 40  # its product with the hash's constant is more than 64 bits hold
    assert int((net.draw(x) != drawn).sum()) > 10


def test_each_step_draws_the_precision_that_learns_and_that_is_attacked() -> None:
    net = random_net()
    drawn = []
    for step in range(30):
        net.begin_step(step, stream(0, "member", step))
        drawn.append(net.active)
    assert set(drawn) == {0, 1, 2}
    called: list[int] = []
    for index, member in enumerate(net.networks()):
        member.register_forward_hook(lambda *_, index=index: called.append(index))
    x, y = torch.rand(6, 1, 16, 16), torch.arange(6)
    options = AdversarialOptions(eps_levels=8, step_levels=2, attack_steps=3)
    adversary = Adversary(net.train(), options, 0)
    for active in (2, 0):
        net.active = active
        adversary.perturbed(net, x, y, None)
        assert called == [active] * 3, "the precision that the step trains, in each of its three steps"
        called.clear()
    assert not net.alone and net.training
    net.eval()(x)
    assert len(set(called)) > 1, "afterwards a prediction draws for each image"


def test_bad_arguments_are_user_errors() -> None:
    with pytest.raises(UserError, match="two or more different bitwidths"):
        archs.create("empir", 10, base="resnet8-16px", bits=(4, 4))
    with pytest.raises(UserError, match="'logits' or 'vote'"):
        archs.create("empir", 10, base="resnet8-16px", combine="max")
    with pytest.raises(UserError, match="repeats: must lie in 1 to 1000, is 4000"):
        archs.create("random-precision", 10, base="resnet8-16px", repeats=4000)
    with pytest.raises(UserError, match="repeats: must lie in 1 to 1000"):
        archs.create("random-precision", 10, base="resnet8-16px", repeats=0)
    with pytest.raises(UserError, match="unknown architecture"):
        archs.create("empir", 10, base="resnet9")
