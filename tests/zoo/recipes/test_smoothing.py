"""The penalty on input gradients is what its equation says, and fine-tuning with it makes them smaller."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.recipes.conftest import Builder, make_entry
from zoo.recipes.smoothing import smoothed_loss


def test_the_penalty_is_the_squared_norm_of_each_images_gradient() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.tensor([0, 2])
    step, norms = 1e-6, []
    for n in range(2):
        total = 0.0
        for i in range(4):
            move = torch.zeros(4, dtype=torch.float64)
            move[i] = step
            up, down = (F.cross_entropy(net(x[n : n + 1] + s * move.view(1, 1, 2, 2)), y[n : n + 1]) for s in (1, -1))
            total += float((up - down) / (2 * step)) ** 2
        norms.append(total)
    expected = float(F.cross_entropy(net(x), y)) + 0.3 * sum(norms) / 2
    loss = smoothed_loss(net(x), x, y, 0.3)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in net[1].parameters()), "the penalty is learned from"


def slopes(net: nn.Module, x: Tensor, y: Tensor) -> float:
    leaf = x.clone().requires_grad_()
    return float(torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)[0].square().sum())


def test_fine_tuning_with_it_makes_gradients_smaller(fp_builder: Builder) -> None:
    x, y = fp_builder.test.images.float() / 255, fp_builder.test.labels
    found = {}
    for name, weight in (("plain", 0.0), ("smooth", 1.0)):
        fp_builder(make_entry(name, epochs=2, start="fp", options={"smooth": weight}))
        found[name] = slopes(fp_builder.load(name), x, y)
    assert found["smooth"] < 0.7 * found["plain"]
