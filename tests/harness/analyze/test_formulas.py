"""The formulas of the analyses against cases worked out by hand, on nets of two layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from harness.analyze.alignment import cosine, edge_overlap, edges, embed, histogram_cosine, histograms
from harness.analyze.batchnorm import distance
from harness.analyze.margins import margin, parted
from harness.analyze.sharpness import FACTOR, STEPS, bake, boxed_weights, feature_sharpness, weight_sharpness
from harness.analyze.shift import divergence, layer_names, tapped
from harness.analyze.study import input_gradient, mean_interval
from zoo.errors import UserError
from zoo.quant import quantize, set_state
from zoo.registry.entry import QuantSpec


def two_layers(first: list[list[float]], second: list[list[float]]) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor(first))
        net[2].weight.copy_(torch.tensor(second))
    return net.double().eval()


def image(*pixels: float) -> torch.Tensor:
    return torch.tensor(pixels, dtype=torch.float64).view(1, 1, 1, len(pixels))


def test_divergence_is_the_relative_distance_of_features() -> None:
    clean = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    adv = torch.tensor([[3.0, 9.0], [2.0, 2.0], [1.0, 0.0]])
    found = divergence(clean, adv)
    assert found[:2].tolist() == [1.0, 1.0] and math.isnan(found[2])


def test_divergence_of_every_layer_of_a_net_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 2, 1)).eval()
    with torch.no_grad():
        net[0].weight.fill_(2.0)
        net[2].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        net[2].bias.copy_(torch.tensor([1.0, 0.0]))
    names = layer_names(net, "blocks")  # it has no blocks
    assert names == ["0", "2"]
    found = []
    with tapped(net, names) as taps:
        for x in (image(1.0), image(2.0)):
            net(x.float())
            found.append(dict(taps))
    # features 2 -> 4, and (3, -2) -> (5, -4)
    assert divergence(found[0]["0"], found[1]["0"]).item() == pytest.approx(1.0)
    assert divergence(found[0]["2"], found[1]["2"]).item() == pytest.approx(math.sqrt(8) / math.sqrt(13))
    assert not net[0]._forward_hooks


def test_input_gradient_and_cosine_by_hand() -> None:
    one, two = two_layers([[1, 2], [0, 1]], [[1, 0], [0, 1]]), two_layers([[1, 0], [0, 1]], [[0, 1], [1, 0]])
    x, y = image(0.0, 0.0), torch.tensor([0])  # both classes have probability 1/2
    first, second = input_gradient(one, x, y), input_gradient(two, x, y)
    # W1' W2' (p - e_0) with p - e_0 = (-1/2, 1/2)
    assert first.flatten().tolist() == [-0.5, -0.5] and second.flatten().tolist() == [0.5, -0.5]
    assert cosine(first, second).item() == pytest.approx(0.0)
    assert cosine(first, -3 * first).item() == pytest.approx(-1.0)
    assert cosine(first, torch.zeros_like(first)).item() == 0.0


def test_edges_overlap_where_gradients_step_at_the_same_place() -> None:
    base = torch.zeros(1, 1, 10, 10)
    left, right = base.clone(), base.clone()
    left[..., :3], right[..., 7:] = 1.0, -2.0
    assert edges(left)[0].sum() == 10  # a tenth of 100 pixels
    assert edge_overlap(left, left).item() == 1.0 and edge_overlap(left, 5 * left).item() == 1.0
    assert edge_overlap(left, right).item() == 0.0


def test_histograms_tell_directions_apart() -> None:
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    assert histogram_cosine(ramp, 7 * ramp).item() == pytest.approx(1.0)
    assert histogram_cosine(ramp, ramp.transpose(-1, -2)).item() == pytest.approx(0.0)
    # a slope along x has direction 0, half way between the last bin and the first
    votes = histograms(ramp).view(9, 16)
    assert torch.allclose(votes[0], votes[8]) and votes[1:8].abs().max() == 0 and votes[0].min() > 0


def test_embedding_finds_places_with_these_distances_the_same_each_time() -> None:
    places = np.array([[0, 0, 0], [0.6, 0, 0], [0, 0.5, 0], [0, 0, 0.4], [0.3, 0.3, 0.3]])
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    found, stress = embed(1 - distances, seed=0)
    assert stress < 0.02
    assert np.allclose(np.linalg.norm(found[:, None] - found[None], axis=-1), distances, atol=0.03)
    again, _ = embed(1 - distances, seed=0)
    assert np.array_equal(found, again)


def test_distance_of_statistics_by_hand() -> None:
    a = (torch.tensor([0.0, 1.0, 5.0]), torch.tensor([4.0, 1.0, 0.0]))
    b = (torch.tensor([1.0, 1.0, 9.0]), torch.tensor([4.0, math.e, 1.0]))
    shift, scale = distance(a, b)  # the third channel is dead
    assert shift == pytest.approx((0.5 + 0.0) / 2) and scale == pytest.approx(0.5)


def test_weight_sharpness_of_a_linear_net_is_that_of_its_worst_corner() -> None:
    net = two_layers([[1.0, 0.5], [-0.5, 1.0]], [[1.0, -1.0], [0.5, 1.0]])
    x, y = image(0.8, 0.3), torch.tensor([0])
    weights = [net[2].weight]
    start, eps = net[2].weight.detach().clone(), 0.05
    found = weight_sharpness(net, weights, lambda: iter([(x, y)]), eps)
    assert FACTOR * eps / STEPS * STEPS > eps  # the walk reaches the rim

    def loss(weight: torch.Tensor) -> float:
        h = net[1].weight.detach() @ x.flatten()
        return float(nn.functional.cross_entropy((weight @ h)[None], y))

    corners = [start + eps * torch.tensor(signs, dtype=torch.float64).view(2, 2) for signs in np.ndindex(2, 2, 2, 2)]
    corners = [start + (2 * (corner - start) - eps) for corner in corners]  # {0, eps} -> {-eps, eps}
    base = loss(start)
    assert found == pytest.approx(100 * (max(map(loss, corners)) - base) / (1 + base), rel=1e-6)
    assert torch.equal(net[2].weight, start) and net[1].weight.requires_grad


def test_feature_sharpness_of_a_linear_net_by_hand() -> None:
    net = two_layers([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    x, y, eps = image(0.5, 0.98), torch.tensor([0]), 0.05
    # the loss falls with x_0 and rises with x_1: the best corner is (0.55, 0.93)
    base, best = (math.log(1 + math.exp(b - a)) for a, b in ((0.5, 0.98), (0.55, 0.93)))
    assert feature_sharpness(net, x, y, eps).item() == pytest.approx(100 * (base - best) / (1 + base), rel=1e-9)
    rim = image(0.99, 0.0)  # clipped to [0, 1]: only a hundredth is left above, nothing below
    base, best = (math.log(1 + math.exp(-a)) for a in (0.99, 1.0))
    assert feature_sharpness(net, rim, y, eps).item() == pytest.approx(100 * (base - best) / (1 + base), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_sharpness_is_never_negative(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    x, y = torch.rand(6, 1, 4, 4), torch.randint(0, 3, (6,))
    with torch.no_grad():  # from the worst place on: labels that the net is most wrong about
        y = net(x).argmin(1) if seed % 2 else net(x).argmax(1)
    assert weight_sharpness(net, list(net.parameters()), lambda: iter([(x, y)]), 0.3) >= 0
    assert (feature_sharpness(net, x, y, 0.3) >= 0).all()


class Wave(nn.Module):
    """A loss that rises and falls with its weight: highest at 0, with a period of a fifth."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([at], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rise = -3 * torch.cos(10 * torch.pi * self.weight)
        return torch.stack([rise, torch.zeros_like(rise)], dim=1).expand(len(x), 2)


def test_the_best_place_met_counts_not_the_last() -> None:
    x, y, at, eps = image(0.0, 0.0), torch.tensor([0]), 0.03, 0.32
    step = FACTOR * eps / STEPS  # 0.04: the walk goes to -0.01 and back to 0.03, ten times
    net = Wave(at)
    found = weight_sharpness(net, [net.weight], lambda: iter([(x, y)]), eps)
    base, best = (math.log(1 + math.exp(3 * math.cos(10 * math.pi * w))) for w in (at, at - step))
    assert found == pytest.approx(100 * (best - base) / (1 + base), rel=1e-9) and found > 1
    assert net.weight.item() == at


def test_effective_and_latent_weights_are_different_boxes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    quantize(net, QuantSpec(method="uniform", w_bits=2, a_bits=32))
    x, y = torch.rand(8, 1, 4, 4), torch.randint(0, 3, (8,))
    set_state(net, "w")
    before = net(x)
    latent = weight_sharpness(net, boxed_weights(net, "latent"), lambda: iter([(x, y)]), 5e-4)
    assert torch.equal(net(x), before)
    assert torch.equal(bake(net)(x), before), "the layers compute with the weights that they computed with"
    effective = weight_sharpness(net, boxed_weights(net, "effective"), lambda: iter([(x, y)]), 5e-4)
    assert effective > 0 and latent >= 0 and effective != pytest.approx(latent, rel=1e-3)


def test_low_bit_files_have_no_latent_weights() -> None:
    import zoo

    with pytest.raises(UserError, match="no latent weights"):
        boxed_weights(zoo.load("digits-nin-2bit"), "latent")


def test_margin_and_its_parts_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert margin(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]
    rows = parted(np.array([True, True, False, False, True]), np.array([1.0, 2.0, 3.0, 4.0, -1.0]), groups=2)
    assert [(row["asr"], row["margin"], row["n"]) for row in rows] == [(100.0, 1.5, 2), (0.0, 3.5, 2)]
    assert rows[0]["rank_correlation"] < 0


def test_mean_interval_by_hand() -> None:
    found = mean_interval(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    half = 1.959963984540054 * math.sqrt(14 / 3) / 2
    assert (found["mean"], found["n"]) == (3.0, 4)
    assert found["low"] == pytest.approx(3 - half) and found["high"] == pytest.approx(3 + half)
