"""Newer attacks against slow, literal transcriptions: one image, one copy, one member at a time."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import Attack, Rng, get
from harness.attacks.ensembles.weighed import StochasticMiniBatch
from harness.attacks.estimates.flatness import ExpectedFlatness
from harness.attacks.estimates.path import DiverseIntegratedGradient
from harness.attacks.estimates.relevance import GradientRelevance
from harness.attacks.estimates.reverse import ReversePerturbation
from harness.attacks.gradients import PenalizedGradientNorm
from harness.attacks.inputs import geometry, operators
from harness.attacks.inputs.masks import Everywhere, MaskBlock
from harness.attacks.inputs.mixing import LocalMix, ScaleAndMixMask
from harness.attacks.inputs.operators import LearnedTransform, OperatorPerturbation
from harness.attacks.inputs.shifts import ShiftGrid
from harness.attacks.inputs.warp import ConstrainedWarp
from harness.attacks.objectives.fitted import PUSH, BlackBoxFeature, PixelToFeature
from harness.attacks.refine.linear import LinearBackward
from harness.attacks.refine.tokens import TokenGradient, without_extreme_lines, without_extremes
from harness.substitutes import Substitute, ensemble
from tests.harness.attacks.nets import EPS, images, net, pool, transformer
from tests.harness.attacks.test_transcriptions import (
    ALPHA,
    T,
    aggregate,
    attack,
    back,
    check,
    cross_entropy_gradient,
    feature_attack,
    front,
    step,
)

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return net()


def clip(adv: Tensor, x: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(adv, x - EPS), x + EPS).clamp(0, 1)


def test_mef(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws, adv, m = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        push = [torch.zeros(SHAPE, dtype=torch.float64) for _ in range(3)]
        for _ in range(4):
            gradients = []
            for i in range(3):
                r = draws.uniform(SHAPE, -2 * EPS, 2 * EPS)[0].double()
                gradients.append(cross_entropy_gradient(model, adv + r + 0.15 * EPS * push[i], int(y[n])))
                push[i] = gradients[i] / gradients[i].abs().mean() - 0.9 * push[i]
            g = torch.stack(gradients).mean(0)
            m = 0.5 * m + g / g.abs().mean()
            adv = clip(adv + EPS / 10 * m.sign(), x[n])
        expected.append(adv)
    check(attack("mef", model, gradient=ExpectedFlatness(samples=3), steps=4), expected)


def test_gra(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws, adv, m = Rng(0, [n]), x[n], torch.zeros(SHAPE, dtype=torch.float64)
        size = torch.full(SHAPE, 1 / 0.94, dtype=torch.float64)
        for _ in range(4):
            here = cross_entropy_gradient(model, adv, int(y[n]))
            near = [adv + draws.uniform(SHAPE, -3.5 * EPS, 3.5 * EPS)[0].double() for _ in range(3)]
            around = torch.stack([cross_entropy_gradient(model, z, int(y[n])) for z in near]).mean(0)
            s = (here * around).sum() / (here.norm() * around.norm())
            g = s * here + (1 - s) * around
            last, m = m, m + g / g.abs().mean()
            for place in np.ndindex(*SHAPE):
                if m[place].sign() != last[place].sign():
                    size[place] *= 0.94
            adv = clip(adv + EPS / 4 * size * m.sign(), x[n])
        expected.append(adv)
    check(attack("gra", model, gradient=GradientRelevance(samples=3), steps=4), expected)


def test_rap(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws, adv, g = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        for t in range(4):
            r = torch.zeros(SHAPE, dtype=torch.float64)
            if t >= 1:  # a quarter of four
                r = (adv + draws.uniform(SHAPE, -EPS, EPS)[0].double()).clamp(0, 1) - adv
                for _ in range(2):
                    r = r - EPS / 8 * cross_entropy_gradient(model, adv + r, int(y[n])).sign()
                    r = (adv + r.clamp(-EPS, EPS)).clamp(0, 1) - adv
            grad = cross_entropy_gradient(model, adv + r, int(y[n]))
            g = g + grad / grad.abs().mean()
            adv = clip(adv + EPS / 8 * g.sign(), x[n])
        expected.append(adv)
    check(attack("rap", model, gradient=ReversePerturbation(inner=2), steps=4), expected)
    assert get("rap").cost(10) == (100 + 300 * 9, 100 + 300 * 9)


def test_mumodig_integrates_from_a_random_quantisation(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws, adv, g = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        for _ in range(T):
            cut = draws.uniform((3, 1))[0].double()
            base = torch.empty_like(adv)
            for c, i, j in np.ndindex(*SHAPE):
                low, high = adv[c].min(), adv[c].max()
                bound = low + cut[c, 0] * (high - low)
                base[c, i, j] = bound if adv[c, i, j] >= bound else low
            point = base + 0.65 * (adv - base)
            g, adv = step(x[n], adv, g, cross_entropy_gradient(model, point, int(y[n])) * 0.65 * (adv - base))
        expected.append(adv)
    check(attack("mumodig", model, gradient=DiverseIntegratedGradient(copies=0)), expected)


def test_anda(model: nn.Module) -> None:
    x, y = images()
    offsets = np.linspace(-0.3, 0.3, 3)
    expected = []
    for n in range(3):
        adv, seen = x[n], []
        for _ in range(T):
            for i in offsets:
                for j in offsets:
                    z = adv.detach().requires_grad_()
                    grid = F.affine_grid(
                        torch.tensor([[[1, 0, i], [0, 1, j]]]).double(), [1, *SHAPE], align_corners=False
                    )
                    moved = F.grid_sample(z[None], grid, align_corners=False)
                    seen.append(torch.autograd.grad(F.cross_entropy(model(moved), y[n : n + 1]), z)[0])
            adv = clip(adv + ALPHA * torch.stack(seen).mean(0).sign(), x[n])
        expected.append(adv)
    check(attack("anda", model, transforms=(ShiftGrid(copies=9),)), expected)


def fitted(model: nn.Module, x: Tensor, y: int, count: int) -> list[Tensor]:
    found, z = [], x
    for _ in range(count):
        g = cross_entropy_gradient(model, z, y)
        z = x + 28 / (3 * 224 * 224) ** 0.5 * (3 * 16 * 16) ** 0.5 * g / g.norm()
        found.append(z)
    return found


def test_bfa(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        weights = aggregate(model, fitted(model, x[n], int(y[n]), 3), int(y[n]), "logit")
        expected.append(feature_attack(model, x[n], weights))
    check(attack("bfa", model, loss=BlackBoxFeature(masks=3)), expected)
    assert pytest.approx(0.0722, abs=1e-4) == PUSH


def test_p2fa(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        adv, g = x[n], torch.zeros(8, 16, 16, dtype=torch.float64)
        for _ in range(2):
            g = g - aggregate(model, fitted(model, adv, int(y[n]), 3), int(y[n]), "logit")
            wanted = front(model, adv[None])[0].detach() + 1e5 * g / g.norm()
            for _ in range(2):
                z = adv.detach().requires_grad_()
                loss = (front(model, z[None])[0] - wanted).square().sum()
                adv = clip(adv - EPS / 10 * torch.autograd.grad(loss, z)[0].sign(), x[n])
        expected.append(adv)
    check(attack("p2fa", model, gradient=PixelToFeature(masks=3, inner=2), steps=4), expected)


def test_ilpd(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws, adv = Rng(0, [n]), x[n]
        for _ in range(T):
            clean = front(model, (x[n] + draws.normal(SHAPE, 0.05)[0].double())[None]).detach()
            z = adv.detach().requires_grad_()
            logits = back(model, 0.1 * front(model, z[None]) + 0.9 * clean)
            adv = clip(adv + EPS / 16 * torch.autograd.grad(F.cross_entropy(logits, y[n : n + 1]), z)[0].sign(), x[n])
        expected.append(adv)
    check(attack("ilpd", model, steps=T), expected)


def test_logit_margin(model: nn.Module) -> None:
    x, y = images()
    target, expected = (y + 1) % 5, []
    for n in range(3):
        adv, g = x[n], torch.zeros(SHAPE)
        for _ in range(T):
            z = adv.detach().requires_grad_()
            logits = model(z[None])[0]
            largest = sorted(logits.tolist())[::-1]
            loss = torch.log_softmax(logits / (largest[0] - largest[1]), 0)[target[n]]
            grad = torch.autograd.grad(loss, z)[0]
            g = g + grad / grad.abs().mean()
            adv = clip(adv + EPS / 8 * g.sign(), x[n])
        expected.append(adv)
    made = get("logit-margin").but(transforms=(), filters=(), steps=T)  # type: ignore[attr-defined]
    check(made(model, x, y, eps=EPS, steps=1, rng=Rng(0, range(3)), target=target), expected)


def test_decowa_moves_the_control_point_against_the_attack(model: nn.Module) -> None:
    """The spline is scipy's; the point moves by U(-1, 1), then down the loss; the attack climbs through the warp."""
    x, y = images()
    line = np.linspace(-1, 1, 3)
    points = np.array([(a, b) for a in line for b in line])
    pixels = np.array([(a, b) for a in np.linspace(-1, 1, 16) for b in np.linspace(-1, 1, 16)])
    unit = np.zeros(9)
    unit[4] = 1
    bump = torch.from_numpy(RBFInterpolator(points, unit, kernel="thin_plate_spline", degree=1)(pixels)).reshape(16, 16)
    still = torch.from_numpy(pixels).reshape(16, 16, 2)

    def warped(z: Tensor, move: Tensor) -> Tensor:
        grid = (still + bump[:, :, None] * move).flip(-1)[None]  # grid_sample wants (x, y)
        made: Tensor = F.grid_sample(z[None], grid, align_corners=True)
        return made

    expected = []
    for n in range(3):
        draws, adv, g = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        for _ in range(T):
            total = torch.zeros(SHAPE, dtype=torch.float64)
            for _ in range(2):
                move = draws.uniform((1, 2), -1, 1)[0, 0].double().requires_grad_()
                slope = torch.autograd.grad(F.cross_entropy(model(warped(adv, move)), y[n : n + 1]), move)[0]
                z = adv.detach().requires_grad_()
                loss = F.cross_entropy(model(warped(z, move.detach() - 0.5 * slope)), y[n : n + 1])
                total += torch.autograd.grad(loss, z)[0] / 2
            g, adv = step(x[n], adv, g, total)
        expected.append(adv)
    made = attack("decowa", model, transforms=(ConstrainedWarp(copies=2, rho=0.5),))
    assert ((made - torch.stack(expected)).abs() > 1e-9).double().mean() < 2e-3  # log(d^2 + 1e-9) is not log(d^2)


def test_maskblock(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        adv, g = x[n], torch.zeros(SHAPE)
        for _ in range(T):
            total = torch.zeros(SHAPE, dtype=torch.float64)
            for i in range(0, 16, 4):
                for j in range(0, 16, 4):
                    z = adv.detach().requires_grad_()
                    masked = z.clone()
                    masked[:, i : i + 4, j : j + 4] = 0
                    total += torch.autograd.grad(F.cross_entropy(model(masked[None]), y[n : n + 1]), z)[0]
            g = g + total / total.abs().mean()
            adv = clip(adv + EPS / 8 * g.sign(), x[n])
        expected.append(adv)
    check(attack("maskblock", model, steps=T), expected)
    assert MaskBlock(blocks=3).copies == 9


def test_everywhere(model: nn.Module) -> None:
    x, y = images()
    target, expected = (y + 1) % 5, []
    for n in range(3):
        draws, adv, g = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        for _ in range(T):
            order = draws.uniform((4,))[0].argsort(stable=True).tolist()
            z = adv.detach().requires_grad_()
            views = [z]
            for block in order[:2]:
                view = x[n].mean((1, 2), keepdim=True).expand(SHAPE).clone()
                i, j = divmod(block, 2)
                view[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = z[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
                views.append(view)
            loss = sum(model(view[None])[0, target[n]] for view in views)
            grad = torch.autograd.grad(loss, z)[0]
            g = g + grad / grad.abs().mean()
            adv = clip(adv + EPS / 10 * g.sign(), x[n])
        expected.append(adv)
    made = get("everywhere").but(transforms=(Everywhere(regions=2, blocks=2),), filters=(), steps=T)  # type: ignore[attr-defined]
    check(made(model, x, y, eps=EPS, steps=1, rng=Rng(0, range(3)), target=target), expected)


def test_usmm(model: nn.Module) -> None:
    x, y = images()
    mates, expected = pool(), []
    for n in range(3):
        draws, adv, g = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        for _ in range(T):
            total = torch.zeros(SHAPE, dtype=torch.float64)
            for _ in range(2):
                for scale in (0.1, 0.425, 0.75):
                    others = sorted(
                        (m for m in range(12) if int(mates.labels[m]) != int(y[n])), key=lambda m: int(mates.labels[m])
                    )
                    other = mates.images[others[int(float(draws.uniform(())[0]) * len(others))]].double() / 255
                    z = (scale * adv * (0.5 + 1.0 * other)).clamp(0, 1)
                    total += cross_entropy_gradient(model, z, int(y[n]))
            g, adv = step(x[n], adv, g, total)
        expected.append(adv)
    check(attack("usmm", model, transforms=(ScaleAndMixMask(scales=3, mixtures=2),)), expected)


def test_idaa_moves_a_tanh_parameter_by_its_own_gradient(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        w, m, adv = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE), x[n]
        low, high = (x[n] - EPS).clamp(min=0), (x[n] + EPS).clamp(max=1)
        for t in range(3):
            leaf = w.detach().requires_grad_()
            image = low + (high - low) * (torch.tanh(leaf) / 2 + 0.5)
            shown = image + (x[n] - image).detach() if t == 0 else image  # the first gradient is the clean image's
            grad = torch.autograd.grad(F.cross_entropy(model(shown[None]), y[n : n + 1]), leaf)[0]
            m = m + grad / grad.abs().mean()
            w = w + m.sign()
            adv = low + (high - low) * (torch.tanh(w) / 2 + 0.5)
        expected.append(adv)
    check(attack("idaa", model, transforms=(), steps=3), expected)


def batch_of(x: Tensor, y: Tensor) -> Any:
    from harness.attacks.parts import Batch

    return Batch(None, x, y, None, EPS, 1, Rng(0, range(len(x))), pool(), len(x))  # type: ignore[arg-type]


def test_idaa_pastes_a_crop_of_another_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.attacks.inputs import mixing

    calls: list[Tensor] = []

    def flat(x: Tensor, *_: object) -> Tensor:
        calls.append(torch.full_like(x, len(calls) % 2) + torch.arange(16.0).double() / 1000)
        return calls[-1]

    monkeypatch.setattr(mixing, "tile_by_tile", flat)
    x, y = images()
    mixed = LocalMix()(x, 0, batch_of(x, y))
    for image in mixed:
        inside = (image[0] >= 1).nonzero()
        top, left = inside.min(0).values.tolist()
        assert len(inside) == 11 * 11 and inside.max(0).values.tolist() == [top + 10, left + 10]
        columns = ((image[0, top, left : left + 11] - 1) * 1000).round()
        assert torch.equal(columns, columns[0] + torch.arange(11.0).double()), "a piece of the second copy, as it was"


def test_moves_of_an_image_are_those_of_torch() -> None:
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    place, size, one = geometry.identity(x), (16, 16), torch.ones(1)
    assert torch.equal(geometry.read(x, place), x)
    assert torch.allclose(geometry.read(x, geometry.rolled(place, size, 5 * one, -3 * one)), x.roll((5, -3), (2, 3)))
    assert torch.allclose(geometry.read(x, geometry.flipped(place, size, one > 0, one < 0)), x.flip(2))
    assert torch.allclose(geometry.read(x, geometry.flipped(place, size, one < 0, one > 0)), x.flip(3))
    quarter = geometry.rotated(place, size, math.pi / 2 * one.double())
    assert torch.allclose(geometry.read(x, quarter), x.rot90(1, (2, 3)), atol=1e-9)
    grid = F.affine_grid(torch.tensor([[[2.0, 0, 0], [0, 2.0, 0]]]).double(), [1, 3, 16, 16], align_corners=False)
    halved = geometry.zoomed(place, size, 2 * one, one, torch.full((1, 2), 0.5))
    assert torch.allclose(geometry.read(x, halved), F.grid_sample(x, grid, align_corners=False), atol=1e-9)


def test_ops_averages_the_image_and_operators_at_its_neighbours(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = [1.0, 0.5, 0.25]
    monkeypatch.setattr(operators, "OPS", tuple((lambda x, draw, s=s: x * s) for s in scales))
    x, y = images()
    expected = []
    for n in range(3):
        draws, adv, g = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        for _ in range(T):
            total = cross_entropy_gradient(model, adv, int(y[n]))
            for _ in range(2):
                ratio = math.floor(float(draws.uniform((1, 1, 1))[0]) * 6) / 4 + 0.25
                r = 2 * EPS * ratio * draws.uniform(SHAPE, -1, 1)[0].double()
                for _ in range(2):
                    levels = math.floor(float(draws.uniform(())[0]) * 3) + 2
                    u = draws.uniform((4, 7))[0]
                    factor = math.prod(scales[int(u[level, 0] * 3)] for level in range(levels))
                    z = adv.detach().requires_grad_()
                    total += torch.autograd.grad(F.cross_entropy(model(((z + r) * factor)[None]), y[n : n + 1]), z)[0]
            g, adv = step(x[n], adv, g, total)
        expected.append(adv)
    made = attack("ops", model, transforms=(OperatorPerturbation(neighbours=2, operators=2),))
    assert ((made - torch.stack(expected)).abs() > 1e-9).double().mean() < 2e-3  # r is rounded to float32 on its way


def test_l2t_learns_which_operators_raise_the_loss(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    monkeypatch.setattr(operators, "L2T", tuple((lambda x, draw, s=s: x * s) for s in scales.tolist()))
    x, y = images()
    expected = []
    for n in range(3):
        draws, adv, g = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for _ in range(3):
            total, gains = torch.zeros(SHAPE, dtype=torch.float64), []
            for _ in range(4):
                shares = theta.softmax(0)
                u = draws.uniform((2, 7))[0].double()
                chosen = [int((u[level, 0] >= shares.cumsum(0)).sum().clamp(max=2)) for level in range(2)]
                z = adv.detach().requires_grad_()
                loss = F.cross_entropy(model((z * scales[chosen[0]] * scales[chosen[1]])[None]), y[n : n + 1])
                total += torch.autograd.grad(loss, z)[0]
                gains.append(shares[chosen[0]] * shares[chosen[1]] * loss.detach())
            slope = torch.autograd.grad(torch.stack(gains).mean(), theta)[0]
            theta = (theta + 0.5 * slope).detach().requires_grad_()
            g = g + total / total.abs().mean()
            adv = clip(adv + EPS / 3 * g.sign(), x[n])
        expected.append(adv)
    check(attack("l2t", model, transforms=(LearnedTransform(copies=4, rate=0.5),), steps=3), expected)


def test_every_operator_of_l2t_and_ops_keeps_the_shape_and_belongs_to_the_image() -> None:
    x, y = images()
    batch = batch_of(x, y)
    u = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    assert (len(operators.OPS), len(operators.L2T)) == (31, 98)
    for number, operator in enumerate([*operators.OPS, *operators.L2T]):
        rows = torch.arange(3)
        moved = operator(x, operators.Draw(u, rows, batch, str(number)))
        assert moved.shape == x.shape and torch.isfinite(moved).all()
        alone = operator(x[1:2], operators.Draw(u[1:2], rows[1:2], batch, str(number)))
        assert torch.allclose(alone[0], moved[1])


def test_linbp_keeps_the_norm_of_the_branch(model: nn.Module) -> None:
    """Behind layer1, in layer2: the inner ReLU passes all, the outer one its mask; the branch is scaled to its usual norm."""
    x, y = images()

    def block(h: Tensor, e: Tensor, linear: bool) -> Tensor:
        two = model.layer2
        inner = two.bn1(two.conv1(e))  # type: ignore[union-attr, operator]
        inner = inner + F.relu(-inner).detach() if linear else F.relu(inner)
        made: Tensor = F.relu(h + two.bn2(two.conv2(inner)))  # type: ignore[union-attr, operator]
        return made

    expected = []
    for n in range(3):
        adv = x[n]
        for _ in range(T):
            z = adv.detach().requires_grad_()
            h = F.relu(model.down(front(model, z[None])))  # type: ignore[operator]
            cut = h.detach().requires_grad_()
            out = block(cut, cut, False)
            logits = model.head(out.mean((2, 3)))  # type: ignore[operator]
            top = torch.autograd.grad(F.cross_entropy(logits, y[n : n + 1]), out)[0]
            a, b = cut.detach().requires_grad_(), cut.detach().requires_grad_()
            shortcut, normal = torch.autograd.grad(block(a, b, False), (a, b), top)
            c = cut.detach().requires_grad_()
            linear = torch.autograd.grad(block(a.detach(), c, True), c, top)[0]
            grad = torch.autograd.grad(h, z, shortcut + linear * normal.norm() / linear.norm())[0]
            adv = clip(adv + ALPHA * grad.sign(), x[n])
        expected.append(adv)
    check(attack("linbp", model), expected)


def test_linbp_passes_every_relu_behind_the_layer_of_a_network_without_blocks() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(576, 5)
        )
    plain = plain.double().eval()
    x, y = images()
    made = get("linbp")(Substitute(plain, feature_layer="1"), x, y, eps=EPS, steps=1, rng=Rng(0, range(3)))
    z = x.detach().requires_grad_()
    h = plain[2](plain[1](plain[0](z)))
    loss = F.cross_entropy(plain[5]((h + F.relu(-h).detach()).flatten(1)), y, reduction="sum")
    check(made, list((x + EPS * torch.autograd.grad(loss, z)[0].sign()).clamp(0, 1)))
    assert "forward" not in plain.__dict__


def test_ghost_scales_the_skip_connections_of_each_image(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        adv, g = x[n], torch.zeros(SHAPE)
        for t in range(T):
            factors = [
                Rng(0, [n], stream=f"ghost 0 {i} {t}").uniform((8, 1, 1), 0.84, 1.16)[0].double() for i in range(2)
            ]
            z = adv.detach().requires_grad_()
            h = torch.relu(model.stem(z[None]))  # type: ignore[operator]
            for i, layer in enumerate((model.layer1, model.layer2)):
                branch = layer.bn2(layer.conv2(torch.relu(layer.bn1(layer.conv1(h)))))  # type: ignore[union-attr, operator]
                h = torch.relu(factors[i] * h + branch)
                h = torch.relu(model.down(h)) if i == 0 else h  # type: ignore[operator]
            loss = F.cross_entropy(model.head(h.mean((2, 3))), y[n : n + 1])  # type: ignore[operator]
            g, adv = step(x[n], adv, g, torch.autograd.grad(loss, z)[0])
        expected.append(adv)
    check(attack("ghost", model), expected)


def test_extreme_tokens_lose_their_gradients() -> None:
    g = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    literal = g.clone()
    for n in range(2):
        for c in range(3):
            column = g[n, :, c].tolist()
            literal[n, column.index(max(column)), c] = literal[n, column.index(min(column)), c] = 0
    assert torch.equal(without_extremes(g), literal)
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    literal = maps.clone()
    for n in range(2):
        for head in range(3):
            flat = maps[n, head].flatten().tolist()
            for extreme in (max(flat), min(flat)):
                row, column = divmod(flat.index(extreme), 5)
                literal[n, head, row, :] = 0
                literal[n, head, :, column] = 0
    assert torch.equal(without_extreme_lines(maps), literal)


def test_tgr_acts_on_attention_maps_queries_and_mlps() -> None:
    """Against hooks on the tensors of a forward pass that is written out, block by block."""
    vit = net(arch=transformer)
    x, y = images()

    def forward(z: Tensor) -> Tensor:
        h = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(z))))  # type: ignore[operator]
        for block in vit.blocks:  # type: ignore[union-attr]
            a, (n, t, c) = block.attn, h.shape
            qkv = a.qkv(block.norm1(h))
            qkv.register_hook(lambda g: 0.75 * without_extremes(g))
            q, k, v = qkv.reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
            weights = (q * a.scale @ k.transpose(-2, -1)).softmax(-1)
            shown = weights.clone()
            shown.register_hook(lambda g: 0.25 * without_extreme_lines(g))
            h = h + a.proj((shown @ v).transpose(1, 2).reshape(n, t, c))
            mlp = block.mlp(block.norm2(h)).clone()
            mlp.register_hook(lambda g: 0.5 * without_extremes(g))
            h = h + mlp
        logits: Tensor = vit.head(vit.norm(h)[:, 0])  # type: ignore[operator]
        return logits

    z = x.detach().requires_grad_()
    grad = torch.autograd.grad(F.cross_entropy(forward(z), y, reduction="sum"), z)[0]
    made = get("tgr")(Substitute(vit, feature_layer="blocks.0"), x, y, eps=EPS, steps=1, rng=Rng(0, range(3)))
    assert ((made - (x + EPS * grad.sign()).clamp(0, 1)).abs() > 1e-9).double().mean() < 2e-3
    assert torch.allclose(forward(x), vit(x))
    with pytest.raises(Exception, match="no transformer block"):
        get("tgr")(net(), x, y, eps=EPS, steps=1, rng=Rng(0, range(3)))
    assert TokenGradient().mlp == 0.5


def pair() -> tuple[list[nn.Module], Any]:
    nets = [net(1), net(2)]
    return nets, ensemble([Substitute(each) for each in nets], "logits")


def mean_gradient(nets: list[nn.Module], z: Tensor, y: int, weights: Tensor | None = None) -> Tensor:
    z = z.detach().requires_grad_()
    shares = torch.full((2,), 0.5, dtype=torch.float64) if weights is None else weights
    logits = sum(share * each(z[None])[0] for share, each in zip(shares, nets, strict=True))
    return torch.autograd.grad(-torch.log_softmax(logits, 0)[y], z)[0]


def run(name: str, crafter: Any, **changes: Any) -> Tensor:
    x, y = images()
    made: Tensor = get(name).but(**changes)(crafter, x, y, eps=EPS, steps=T, rng=Rng(0, range(3)), pool=pool())  # type: ignore[attr-defined]
    return made


def test_svre() -> None:
    nets, crafter = pair()
    x, y = images()
    expected = []
    for n in range(3):
        adv, m = x[n], torch.zeros(SHAPE)
        for t in range(T):
            whole = mean_gradient(nets, adv, int(y[n]))
            z, g = adv, torch.zeros(SHAPE)
            for u in Rng(0, [-1], stream=f"svre {t}").uniform((8,))[0].tolist():
                member = nets[int(u * 2)]
                h = cross_entropy_gradient(member, z, int(y[n])) - (
                    cross_entropy_gradient(member, adv, int(y[n])) - whole
                )
                g = g + h / h.abs().mean()
                z = clip(z + ALPHA * g.sign(), x[n])
            m, adv = step(x[n], adv, m, g)
        expected.append(adv)
    check(run("svre", crafter), expected)


def test_cwa() -> None:
    nets, crafter = pair()
    x, y = images()
    expected = []
    for n in range(3):
        adv, m, inner = x[n], torch.zeros(SHAPE), torch.zeros(SHAPE)
        for _ in range(T):
            z = clip(adv - EPS / 15 * mean_gradient(nets, adv, int(y[n])).sign(), x[n])
            for member in nets:
                g = cross_entropy_gradient(member, z, int(y[n]))
                inner = inner + g / g.norm()
                z = clip(z + 250 * math.sqrt(3 * 16 * 16) / math.sqrt(3 * 224 * 224) * inner, x[n])
            move = z - adv
            m = m + move / move.abs().mean()
            adv = clip(adv + 0.2 * EPS * m.sign(), x[n])
        expected.append(adv)
    check(run("cwa", crafter), expected)


def test_adaea() -> None:
    nets, crafter = pair()
    x, y = images()
    expected = []
    for n in range(3):
        adv, m = x[n], torch.zeros(SHAPE)
        for _ in range(T):
            grads = [cross_entropy_gradient(member, adv, int(y[n])) for member in nets]
            tried = [clip(adv + ALPHA * g.sign(), x[n]) for g in grads]
            loss = [[F.cross_entropy(member(z[None]), y[n : n + 1]).item() for member in nets] for z in tried]
            w = torch.tensor([10 * loss[0][1] / loss[0][0], 10 * loss[1][0] / loss[1][1]]).double().softmax(0)
            g = mean_gradient(nets, adv, int(y[n]), w)
            for i in range(16):
                for j in range(16):
                    a, b = grads[0][:, i, j], grads[1][:, i, j]
                    if (a * b).sum() / (a.norm() * b.norm()) < -0.3:
                        g[:, i, j] = 0
            m, adv = step(x[n], adv, m, g)
        expected.append(adv)
    check(run("adaea", crafter), expected)


def test_smer() -> None:
    nets, crafter = pair()
    x, y = images()
    expected = []
    for n in range(3):
        adv, m, w = x[n], torch.zeros(SHAPE), torch.ones(2, dtype=torch.float64)
        for t in range(T):
            z, g = adv, torch.zeros(SHAPE)
            for draws in Rng(0, [-1], stream=f"smer {t}").uniform((4, 2))[0]:
                for k in draws.argsort(stable=True).tolist():
                    leaf = z.detach().requires_grad_()
                    h = torch.autograd.grad(F.cross_entropy(w[k] * nets[k](leaf[None]), y[n : n + 1]), leaf)[0]
                    g = g + h / h.abs().mean()
                    free = w.detach().requires_grad_()
                    mixed = (free[0] * nets[0](z[None]) + free[1] * nets[1](z[None])) / 2
                    optimiser = torch.optim.SGD([free], lr=0.2, weight_decay=0.5)
                    (-F.cross_entropy(mixed, y[n : n + 1]).log()).backward()
                    optimiser.step()
                    w = free.detach()
                    z = clip(z + ALPHA * g.sign(), x[n])
            m, adv = step(x[n], adv, m, g)
        expected.append(adv)
    check(run("smer", crafter, gradient=StochasticMiniBatch(rate=0.2, shrink=0.5)), expected)


@pytest.mark.parametrize("session", [False, True], ids=["bare", "as a run computes"])
def test_awt_tunes_the_weights_of_each_image(session: bool) -> None:
    """Against a copy of the network whose weights are changed, by a SAM step of SGD with momentum."""
    x, y = images()
    expected = []
    for n in range(3):
        tuned = copy.deepcopy(net()).requires_grad_(True)
        layers = [part.weight for part in tuned.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        push = [torch.zeros_like(w) for w in layers]
        draws, adv, m = Rng(0, [n]), x[n], torch.zeros(SHAPE)
        for _ in range(T):

            def slopes(point: Tensor, tuned: nn.Module = tuned, layers: list[Tensor] = layers, n: int = n) -> Any:
                loss = sum(F.cross_entropy(tuned(z[None]), y[n : n + 1]) for z in (point, x[n]))
                return torch.autograd.grad(loss, layers)  # type: ignore[arg-type]

            here = slopes(adv)
            norm = torch.stack([g.norm() for g in here]).norm()
            with torch.no_grad():
                for w, g in zip(layers, here, strict=True):
                    w += 0.05 * g / norm
            away = slopes(adv)
            with torch.no_grad():
                for w, g in zip(layers, here, strict=True):
                    w -= 0.05 * g / norm
                push = [0.5 * p + a for p, a in zip(push, away, strict=True)]
                for w, p in zip(layers, push, strict=True):
                    w -= 0.02 * p
            total = torch.zeros(SHAPE, dtype=torch.float64)
            for _ in range(2):
                near = adv + draws.uniform(SHAPE, -3 * EPS, 3 * EPS)[0].double()
                first = cross_entropy_gradient(tuned, near, int(y[n]))
                second = cross_entropy_gradient(tuned, near - ALPHA * first / first.abs().mean(), int(y[n]))
                total += first / 2 + second / 2
            m, adv = step(x[n], adv, m, total)
        expected.append(adv)
    from harness.attacks.refine.weights import WeightTuning

    crafter = Substitute(net())
    made = {"gradient": PenalizedGradientNorm(samples=2), "refine": WeightTuning(rate=0.02, rho=0.05)}
    if not session:
        check(run("awt", crafter, **made), expected)
        return
    with crafter.session():
        tuned_run = run("awt", crafter, **made)
    assert ((tuned_run - torch.stack(expected)).abs() > 1e-9).double().mean() < 2e-3


def test_universal_is_one_perturbation_made_on_the_pool(model: nn.Module) -> None:
    x, y = images()
    mates = pool()
    v, m = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE)
    for t in range(T):
        total = torch.zeros(SHAPE, dtype=torch.float64)
        for u in Rng(0, [-1], stream=f"universal {t}").uniform((16,))[0].double().tolist():
            chosen = int(u * 12)
            image = (mates.images[chosen].double() / 255 + v).clamp(0, 1)
            total += cross_entropy_gradient(model, image, int(mates.labels[chosen]))
        m = m + total / total.abs().mean()
        v = (v + ALPHA * m.sign()).clamp(-EPS, EPS)
    made = attack("universal", model)
    check(made, [(image + v).clamp(0, 1) for image in x])
    patched = attack("patch", model)
    changed = (patched - x).abs().amax(1) > 0
    assert changed.sum((1, 2)).max() <= 9 and torch.equal(changed.nonzero()[:, 1:].amax(0), torch.tensor([14, 14]))
    assert y.shape == (3,)


def test_an_attack_is_an_attack() -> None:
    assert isinstance(get("linbp"), Attack) and get("linbp").refine == LinearBackward()  # type: ignore[attr-defined]
