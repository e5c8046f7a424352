"""Attacks against slow, literal transcriptions of their papers' equations: one image, one copy, one pixel at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import Rng, features, get
from harness.attacks.features import RandomPatch
from harness.attacks.parts import Batch
from harness.attacks.spectrum import dct2, idct2
from harness.substitutes import Substitute
from tests.harness.attacks.nets import EPS, images, net, pool, quantized

T = 2
ALPHA = EPS / T


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return net()


def front(model: nn.Module, x: Tensor) -> Tensor:
    """Return the output of the feature layer, without hooks."""
    feature: Tensor = model.layer1(torch.relu(model.stem(x)))  # type: ignore[operator]
    return feature


def back(model: nn.Module, feature: Tensor) -> Tensor:
    h = model.layer2(torch.relu(model.down(feature)))  # type: ignore[operator]
    logits: Tensor = model.head(h.mean((2, 3)))  # type: ignore[operator]
    return logits


def cross_entropy_gradient(model: nn.Module, z: Tensor, y: int) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(-torch.log_softmax(model(z[None])[0], 0)[y], z)[0]


def step(x: Tensor, adv: Tensor, g: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """MI-FGSM: momentum of the L1-normalised gradient, sign step, clip to the ball and to [0, 1]."""
    g = 1.0 * g + grad / grad.abs().sum()
    adv = adv + ALPHA * torch.sign(g)
    return g, torch.clamp(torch.minimum(torch.maximum(adv, x - EPS), x + EPS), 0, 1)


def feature_attack(model: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """FIA Eq. 5: minimise sum(weights * f(x_adv)) by MI-FGSM."""
    adv, g = x, torch.zeros_like(x)
    for _ in range(T):
        z = adv.detach().requires_grad_()
        loss = (weights * front(model, z[None])[0]).sum()
        g, adv = step(x, adv, g, -torch.autograd.grad(loss, z)[0])
    return adv


def aggregate(model: nn.Module, inputs: list[Tensor], y: int, of: str) -> Tensor:
    total = torch.zeros(8, 16, 16, dtype=torch.float64)
    for z in inputs:
        feature = front(model, z[None]).detach().requires_grad_()
        logits = back(model, feature)[0]
        score = logits[y] if of == "logit" else torch.softmax(logits, 0)[y]
        total += torch.autograd.grad(score, feature)[0][0]
    return total / total.norm()


def attack(name: str, module: nn.Module, **changes: object) -> Tensor:
    x, y = images()
    chosen = get(name).but(**changes)  # type: ignore[attr-defined]
    crafter = Substitute(module, feature_layer="layer1")
    made: Tensor = chosen(crafter, x, y, eps=EPS, steps=T, rng=Rng(0, range(3)), pool=pool())
    return made


def check(made: Tensor, expected: list[Tensor]) -> None:
    assert torch.allclose(made, torch.stack(expected), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "keep"), [("fia", 0.7), ("fia-released", 0.9)])
def test_fia(model: nn.Module, name: str, keep: float) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws = Rng(0, [n])
        masked = []
        for _ in range(30):
            mask = (draws.uniform((3, 16, 16))[0] < keep).double()
            masked.append(x[n] * mask)
        expected.append(feature_attack(model, x[n], aggregate(model, masked, int(y[n]), "logit")))
    check(attack(name, model), expected)


def literal_patch_mask(draws: Rng, side: int, keep: float) -> Tensor:
    down = across = 16 // side
    u = draws.uniform((3, down, across))[0]
    noise = draws.uniform((3, 16, 16))[0].double()
    mask = torch.ones(3, 16, 16, dtype=torch.float64)
    pairs = sorted((float(u[c, i, j]), c, i, j) for c in range(3) for i in range(down) for j in range(across))
    above = [pair for pair in pairs if pair[0] >= np.float32(keep)]
    chosen = above if side == 1 else pairs[: int(3 * down * across * (1 - keep))]
    for _, c, i, j in chosen:
        for a in range(i * side, (i + 1) * side):
            for b in range(j * side, (j + 1) * side):
                mask[c, a, b] = noise[c, a, b]
    return mask


@pytest.mark.parametrize(("name", "sides"), [("rpa", (1, 3, 5, 7)), ("rpa-released", (1,))])
def test_rpa(model: nn.Module, name: str, sides: tuple[int, ...]) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws = Rng(0, [n])
        masked = [x[n] * literal_patch_mask(draws, side, 0.7) for side in RandomPatch(patches=sides).sides()]
        expected.append(feature_attack(model, x[n], aggregate(model, masked, int(y[n]), "logit")))
    check(attack(name, model), expected)


def test_rpa_shows_every_side_to_each_of_two_alternating_states(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[int]] = {0: [], 1: []}
    sides: list[int] = []

    def mask(self: RandomPatch, batch: Batch, side: int) -> torch.Tensor:
        sides.append(side)
        return torch.ones(())

    def gradient(batch: Batch, inputs: Iterable[torch.Tensor], of: str) -> torch.Tensor:
        for n, _ in enumerate(inputs):
            seen[n % 2].append(sides[-1])
        return torch.ones(2, 1)

    monkeypatch.setattr(RandomPatch, "mask", mask)
    monkeypatch.setattr(features, "feature_gradient", gradient)
    x = torch.zeros(2, 3, 16, 16)
    RandomPatch().prepare(Batch(None, x, None, None, EPS, 1, Rng(0, [0, 1]), None, 2))  # type: ignore[arg-type]
    assert [(seen[0] + seen[1]).count(side) for side in (1, 3, 5, 7)] == [15, 15, 15, 15]
    for state in seen.values():
        assert [state.count(side) for side in (1, 3, 5, 7)] in ([8, 7, 8, 7], [7, 8, 7, 8])


@pytest.mark.parametrize(("side", "share"), [(1, 0.3), (3, 0.3), (5, 0.3), (7, 0.3)])
def test_rpa_masks_have_the_published_share_and_shape(side: int, share: float) -> None:
    x = torch.zeros(2, 3, 64, 64)
    batch = Batch(None, x, None, None, EPS, 1, Rng(0, [0, 1]), None, 2)  # type: ignore[arg-type]
    mask = RandomPatch().mask(batch, side)
    changed = mask != 1
    covered = (64 // side * side) ** 2
    assert changed.double().sum().item() / (2 * 3 * covered) == pytest.approx(share, abs=0.02)
    assert not changed[:, :, 64 // side * side :].any() and not changed[:, :, :, 64 // side * side :].any()
    blocks = F.max_pool2d(changed.float(), side, side) - (-F.max_pool2d(-changed.float(), side, side))
    assert blocks.abs().max() == 0, "a patch is changed as a whole"
    assert not torch.equal(mask[0], mask[1]) and mask.min() >= 0 and mask.max() <= 1


def test_naa(model: nn.Module) -> None:
    x, y = images()
    for gamma in (1.0, 0.5):
        expected = []
        for n in range(3):
            path = [(m / 30) * x[n] for m in range(1, 31)]
            weights = aggregate(model, path, int(y[n]), "probability")
            black = front(model, torch.zeros(1, 3, 16, 16, dtype=torch.float64))[0].detach()
            adv, g = x[n], torch.zeros_like(x[n])
            for _ in range(T):
                z = adv.detach().requires_grad_()
                attribution = (front(model, z[None])[0] - black) * weights
                loss = attribution[attribution >= 0].sum() + gamma * attribution[attribution < 0].sum()
                g, adv = step(x[n], adv, g, -torch.autograd.grad(loss, z)[0])
            expected.append(adv)
        from harness.attacks import NeuronAttribution

        check(attack("naa", model, loss=NeuronAttribution(gamma=gamma)), expected)


def test_ila(model: nn.Module) -> None:
    x, y = images()
    guided = get("mim")(model, x, y, eps=EPS, steps=T, rng=Rng(0, range(3)))
    expected = []
    for n in range(3):
        clean, aim = front(model, x[n : n + 1])[0].detach(), front(model, guided[n : n + 1])[0].detach()
        adv = x[n]
        for _ in range(T):
            z = adv.detach().requires_grad_()
            loss = ((front(model, z[None])[0] - clean) * (aim - clean)).sum()
            _, adv = step(x[n], adv, torch.zeros_like(adv), torch.autograd.grad(loss, z)[0])
        expected.append(adv)
    check(attack("ila", model), expected)


def test_admix(model: nn.Module) -> None:
    x, y = images()
    mates = pool()
    expected = []
    for n in range(3):
        draws = Rng(0, [n])
        adv, g = x[n], torch.zeros_like(x[n])
        for _ in range(T):
            grad = torch.zeros_like(adv)
            for _ in range(3):
                others = [m for label in range(5) if label != int(y[n]) for m in range(12) if mates.labels[m] == label]
                chosen = others[int(float(draws.uniform(())[0]) * len(others))]
                mixed = mates.images[chosen].float().div(255).double()
                for i in range(5):
                    z = adv.detach().requires_grad_()
                    loss = F.cross_entropy(model(((z + 0.2 * mixed) / 2**i)[None]), y[n : n + 1])
                    grad += torch.autograd.grad(loss, z)[0] / 15
            g, adv = step(x[n], adv, g, grad)
        expected.append(adv)
    check(attack("admix", model), expected)


def test_admix_released_adds_running_sums(model: nn.Module) -> None:
    """g = 5 g1 + 4 g2 + 3 g3 + 2 g4 + 1 g5: a gradient that is never zeroed, added up after every copy."""
    x, y = images()
    mates = pool()
    expected = []
    for n in range(3):
        draws = Rng(0, [n])
        adv, g = x[n], torch.zeros_like(x[n])
        for _ in range(T):
            running, total = torch.zeros_like(adv), torch.zeros_like(adv)
            for _ in range(5):
                others = [m for label in range(5) if label != int(y[n]) for m in range(12) if mates.labels[m] == label]
                chosen = others[int(float(draws.uniform(())[0]) * len(others))]
                mixed = adv + 0.2 * mates.images[chosen].float().div(255).double()
                running = running + cross_entropy_gradient(model, mixed, int(y[n]))
                total = total + running
            g = g + total / total.abs().sum()
            adv = torch.minimum(torch.maximum(adv + EPS / 8 * torch.sign(g), x[n] - EPS), x[n] + EPS).clamp(0, 1)
        expected.append(adv)
    check(attack("admix-released", model, steps=T), expected)


@pytest.mark.parametrize(("name", "momentum"), [("ssa", True), ("ssa-released", False)])
def test_ssa(model: nn.Module, name: str, momentum: bool) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws = Rng(0, [n])
        adv, g = x[n], torch.zeros_like(x[n])
        for _ in range(T):
            grad = torch.zeros_like(adv)
            for _ in range(20):
                xi = draws.normal((3, 16, 16), 16 / 255)[0].double()
                mask = draws.uniform((3, 16, 16), 0.5, 1.5)[0].double().numpy()
                z = torch.empty_like(adv)
                for c in range(3):
                    spectrum = dctn((adv + xi)[c].numpy(), norm="ortho") * mask[c]
                    z[c] = torch.from_numpy(idctn(spectrum, norm="ortho"))
                grad += cross_entropy_gradient(model, z, int(y[n])) / 20
            g, adv = step(x[n], adv, g if momentum else torch.zeros_like(g), grad)
        expected.append(adv)
    check(attack(name, model), expected)


def test_emi(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        adv, g, bar = x[n], torch.zeros_like(x[n]), torch.zeros_like(x[n])
        for _ in range(T):
            grad = torch.zeros_like(adv)
            for i in range(11):
                grad += cross_entropy_gradient(model, adv + (-7 + 1.4 * i) * ALPHA * bar, int(y[n])) / 11
            bar = grad / grad.abs().mean()
            g, adv = step(x[n], adv, g, grad)
        expected.append(adv)
    check(attack("emi", model), expected)


def test_pgn(model: nn.Module) -> None:
    x, y = images()
    expected = []
    for n in range(3):
        draws = Rng(0, [n])
        adv, g = x[n], torch.zeros_like(x[n])
        for _ in range(T):
            grad = torch.zeros_like(adv)
            for _ in range(20):
                near = adv + draws.uniform((3, 16, 16), -3 * EPS, 3 * EPS)[0].double()
                first = cross_entropy_gradient(model, near, int(y[n]))
                second = cross_entropy_gradient(model, near - ALPHA * first / first.abs().mean(), int(y[n]))
                grad += (0.5 * first + 0.5 * second) / 20
            g, adv = step(x[n], adv, g, grad)
        expected.append(adv)
    check(attack("pgn", model), expected)


def test_sgm_decays_residual_branches(model: nn.Module) -> None:
    """dz'/dz = 1 + gamma * df/dz, checked on one block by splitting its branches."""
    block = model.layer1
    z = torch.rand(1, 8, 16, 16, dtype=torch.float64)
    weight = torch.rand(1, 8, 16, 16, dtype=torch.float64)

    def branch(h: Tensor) -> Tensor:
        made: Tensor = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(h)))))  # type: ignore[union-attr, operator]
        return made

    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    out = (weight * torch.relu(a + branch(b))).sum()
    direct, through = torch.autograd.grad(out, (a, b))
    from harness.attacks import SkipGradient

    c = z.clone().requires_grad_()
    with SkipGradient(0.2).applied(model):
        decayed = torch.autograd.grad((weight * block(c)).sum(), c)[0]  # type: ignore[operator]
    assert torch.allclose(decayed, direct + 0.2 * through)
    plain = torch.autograd.grad((weight * block(c)).sum(), c)[0]  # type: ignore[operator]
    assert torch.allclose(plain, direct + through), "no hook stays"


@pytest.mark.parametrize("lookahead", [0.0, 1.0])
def test_variance_tuning_leaves_out_the_variance_that_no_step_uses(model: nn.Module, lookahead: float) -> None:
    """VMI: g = grad(x_t) + v_t; v_{t+1} = mean grad(x_t + r) - grad(x_t); after the last step there is none to make."""
    x, y = images()
    expected = []
    for n in range(3):
        draws = Rng(0, [n])
        adv, g, v = x[n], torch.zeros_like(x[n]), torch.zeros_like(x[n])
        for t in range(T):
            point = adv + lookahead * ALPHA * g
            grad = cross_entropy_gradient(model, point, int(y[n]))
            mean = (grad + v).abs().mean()
            if t == 0:
                v_next = torch.zeros_like(grad)
                for _ in range(20):
                    near = adv + draws.uniform((3, 16, 16), -1.5 * EPS, 1.5 * EPS)[0].double()
                    v_next += cross_entropy_gradient(model, near, int(y[n])) / 20
                v_next -= grad
            g = g + (grad + v) / mean
            adv = torch.minimum(torch.maximum(adv + ALPHA * torch.sign(g), x[n] - EPS), x[n] + EPS).clamp(0, 1)
            v = v_next
        expected.append(adv)
    check(attack("vmi", model, lookahead=lookahead), expected)
    assert get("vmi").cost(10) == (10 + 9 * 20, 10 + 9 * 20)


def test_logit_targeted_adds_up_gradients_as_they_are(model: nn.Module) -> None:
    """Zhao et al.: m = m + TI(grad of the target's logit), without an L1 norm; DI by nearest neighbour."""
    from harness.attacks import DiverseInput

    x, y = images()
    target = (y + 1) % 5
    assert get("logit-targeted").transforms == (DiverseInput(high=330 / 299, prob=0.7, interpolation="nearest"),)  # type: ignore[attr-defined]
    points = torch.linspace(-3, 3, 5, dtype=torch.float64)
    kernel = torch.exp(-points.square() / 2) / torch.exp(-points.square() / 2).sum()
    smooth = (kernel[:, None] * kernel[None, :])[None, None].repeat(3, 1, 1, 1)
    expected = []
    for n in range(3):
        adv, m = x[n], torch.zeros_like(x[n])
        for _ in range(5):
            z = adv.detach().requires_grad_()
            grad = torch.autograd.grad(model(z[None])[0, target[n]], z)[0]
            m = m + F.conv2d(grad[None], smooth, padding=2, groups=3)[0]
            adv = torch.minimum(torch.maximum(adv + EPS / 8 * torch.sign(m), x[n] - EPS), x[n] + EPS).clamp(0, 1)
        expected.append(adv)
    crafter = Substitute(model, feature_layer="layer1")
    made = get("logit-targeted").but(transforms=(), steps=5)  # type: ignore[attr-defined]
    check(made(crafter, x, y, eps=EPS, steps=5, rng=Rng(0, range(3)), target=target), expected)


@pytest.mark.parametrize("size", [(16, 16), (7, 12), (299, 5)])
def test_dct_equals_scipy(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    assert np.allclose(dct2(x).numpy(), dctn(x.numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)
    assert torch.allclose(idct2(dct2(x)), x, atol=1e-12)
    assert (idct2(dct2(x.float())) - x.float()).abs().max() < 2e-6


def test_fia_gives_each_state_half_of_its_weights() -> None:
    """On an alternating substitute 15 masks run in each state, whatever the attack phase does then."""
    from tests.harness.substitutes.test_substitute import states_seen

    crafter = Substitute(quantized(), ("w", "wa"), feature_layer="layer1")
    seen = states_seen(crafter)
    x, y = images()
    with crafter.session():
        get("fia")(crafter, x, y, eps=EPS, steps=3, rng=Rng(0, range(3)))
    assert seen == ["w", "wa"] * 15 + ["w", "wa", "w"]


def test_per_forward_schedules_see_the_released_order() -> None:
    """SSA's 20 copies alternate within an iteration; CIM's 5 scales are one pass; Admix goes on from iteration to iteration."""
    from tests.harness.substitutes.test_substitute import states_seen

    x, y = images()
    crafter = Substitute(quantized(), ("wa", "w"), every="forward", feature_layer="layer1")
    seen = states_seen(crafter)
    both = ["wa", "w"]
    for name, expected in {
        "ssa-released": both * 20,
        "cim-released": both,
        "admix-released": both * 5,
        "fia-released": both * 15 + both,
    }.items():
        for chunk, passes in ((None, 1), (1, 3)):
            seen.clear()
            attack = get(name).but(steps=2)  # type: ignore[attr-defined]
            with crafter.session():
                attack(crafter, x, y, eps=EPS, steps=2, rng=Rng(0, range(3)), pool=pool(), chunk=chunk)
            if name == "cim-released":
                assert seen == [state for state in both for _ in range(5 * passes if chunk else 5)]
            else:
                assert seen == [state for state in expected for _ in range(passes)]
