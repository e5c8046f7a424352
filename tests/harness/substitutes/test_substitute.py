"""Schedules of states, sessions that leave nothing behind, ensembles and snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import harness.substitutes.network as module_under_test
from harness.attacks import Attack, FeatureImportance, get
from harness.substitutes import LGV, Crafter, Substitute, ensemble, mixture
from tests.harness.attacks.nets import EPS, images, net, quantized, rng
from zoo.errors import UserError
from zoo.quant import activation_quantizers, set_state, weight_quantizers


def states_seen(crafter: Substitute) -> list[str]:
    """Record the state of the network at each of its forward passes."""
    seen: list[str] = []

    def look(module: nn.Module, _args: object) -> None:
        w = next(iter(weight_quantizers(module).values())).enabled
        a = next(iter(activation_quantizers(module).values())).enabled
        seen.append({(False, False): "fp", (True, False): "w", (False, True): "a", (True, True): "wa"}[w, a])

    crafter.module.register_forward_pre_hook(look)
    return seen


def run(crafter: Crafter, attack: Attack, batches: int = 1, steps: int = 5) -> None:
    x, y = images()
    with crafter.session():
        for _ in range(batches):
            attack(crafter, x, y, eps=EPS, steps=steps, rng=rng())


def test_alternation_is_full_precision_first_and_per_iteration() -> None:
    crafter = Substitute(quantized(), ("w", "wa"))
    seen = states_seen(crafter)
    run(crafter, Attack(), steps=5)
    assert seen == ["w", "wa", "w", "wa", "w"]


def test_alternation_restarts_with_each_batch() -> None:
    crafter = Substitute(quantized(), ("w", "wa"))
    seen = states_seen(crafter)
    run(crafter, Attack(), batches=2, steps=3)
    assert seen == ["w", "wa", "w"] * 2


def test_post_training_alternation_switches_weights_too() -> None:
    crafter = Substitute(quantized(), ("fp", "wa"))
    seen = states_seen(crafter)
    run(crafter, Attack(), steps=3)
    assert seen == ["fp", "wa", "fp"]


def test_a_single_state_is_held() -> None:
    crafter = Substitute(quantized(), ("wa",))
    seen = states_seen(crafter)
    run(crafter, Attack(), steps=3)
    assert seen == ["wa"] * 3


def test_alternation_decides_the_image() -> None:
    """Red when the schedule is ignored: the alternating image equals neither of the fixed ones nor the reversed order."""
    x, y = images()
    made = []
    for states in (("w", "wa"), ("wa", "w"), ("w",), ("wa",)):
        crafter = Substitute(quantized(), states)  # type: ignore[arg-type]
        with crafter.session():
            made.append(Attack(decay=1.0)(crafter, x, y, eps=EPS, steps=4, rng=rng()))
    assert all(not torch.equal(made[0], other) for other in made[1:])


def test_a_session_leaves_nothing_behind() -> None:
    network = quantized()
    set_state(network, "a")
    network.train()
    network.layer1.eval()
    parameter = next(network.parameters())
    parameter.requires_grad_(False)
    before = snapshot(network)
    crafter = Substitute(network, ("w", "wa"), feature_layer="layer1")
    with pytest.raises(ZeroDivisionError), crafter.session():
        assert not any(part.training for part in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
        crafter.begin_iteration(1)
        raise ZeroDivisionError
    assert snapshot(network) == before


def snapshot(network: nn.Module) -> list[object]:
    parts = [(n, m.training, getattr(m, "enabled", None), len(m._forward_hooks)) for n, m in network.named_modules()]
    return [*parts, *((n, p.requires_grad, p.grad) for n, p in network.named_parameters())]


def test_weights_are_quantised_once_per_session() -> None:
    crafter = Substitute(quantized(), ("w", "wa"))
    quantizer = next(iter(weight_quantizers(crafter.module).values()))
    calls = []
    original = quantizer.quantize
    quantizer.quantize = lambda w: calls.append(1) or original(w)  # type: ignore[method-assign, func-returns-value]
    run(crafter, Attack(), batches=3)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("states", "every", "words"),
    [(("w",), "iteration", "only fp"), ((), "iteration", "at least one"), (None, "step", "iteration")],
)
def test_misuse(states: tuple[str, ...], every: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Substitute(net(), states, every)  # type: ignore[arg-type]


def test_ensembles_combine_as_published() -> None:
    x, y = images()
    members = [Substitute(net(1)), Substitute(net(2))]
    a, b = (member(x) for member in members)
    assert torch.allclose(ensemble(members, "logits")(x), (a + b) / 2)
    probability = (a.softmax(1) + b.softmax(1)) / 2
    loss = F.cross_entropy(ensemble(members, "softmax")(x), y)
    assert torch.allclose(loss, -probability.gather(1, y[:, None]).log().mean())
    assert torch.allclose(ensemble(members, "logits-sum")(x), a + b)
    assert torch.allclose(ensemble(members, "double-softmax")(x), a.softmax(1) + b.softmax(1))
    for bad, how in (([], "logits"), (members, "median")):
        with pytest.raises(UserError):
            ensemble(bad, how)  # type: ignore[arg-type]


def test_sampling_draws_one_member_per_iteration_by_seed() -> None:
    members = [Substitute(net(1)), Substitute(net(2))]
    orders = []
    for seed in (0, 0, 1):
        sampled = ensemble(members, "sampling", seed)
        turns = []
        for _ in range(2):
            sampled.begin_batch()
            for t in range(20):
                sampled.begin_iteration(t)
                turns.append(sampled._active is members[1])  # type: ignore[attr-defined]
        assert turns[:20] == turns[20:], "the order restarts with each batch"
        assert 0 < sum(turns) < 40
        orders.append(turns)
    assert orders[0] == orders[1] != orders[2]


def lgv(count: int = 5, seed: int = 0) -> LGV:
    return LGV(net(), [net(10 + i).state_dict() for i in range(count)], "layer1", seed)


def test_lgv_walks_through_every_snapshot_and_restores_the_weights() -> None:
    crafter = lgv()
    before = {name: tensor.clone() for name, tensor in crafter.module.state_dict().items()}
    seen: list[float] = []
    crafter.module.register_forward_pre_hook(lambda module, _: seen.append(float(module.head.weight[0, 0].detach())))
    run(crafter, Attack(), batches=2, steps=5)
    assert len(set(seen[:5])) == 5 and seen[:5] == seen[5:]
    assert all(torch.equal(before[name], tensor) for name, tensor in crafter.module.state_dict().items())
    assert lgv(seed=1)._order != crafter._order
    with pytest.raises(UserError, match="snapshot"):
        LGV(net(), [])


class Counter(Substitute):
    """Records the iterations it is told."""

    def __init__(self) -> None:
        super().__init__(net())
        self.told: list[int] = []

    def begin_iteration(self, t: int) -> None:
        self.told.append(t)


@pytest.mark.parametrize(
    ("ratio", "turns"), [((1, 1), "qlqlqlql"), ((1, 3), "qlllqlll"), ((2, 1), "qlqqlqql"), ((0, 1), "llllllll")]
)
def test_mixture_takes_turns_by_ratio(ratio: tuple[int, int], turns: str) -> None:
    qaa, snapshots = Counter(), Counter()
    mixed = mixture(qaa, snapshots, ratio)
    taken = ""
    for t in range(8):
        mixed.begin_iteration(t)
        taken += "q" if mixed._active is qaa else "l"  # type: ignore[attr-defined]
    assert taken == turns
    assert qaa.told == list(range(turns.count("q"))) and snapshots.told == list(range(turns.count("l")))


def test_mixture_of_qaa_and_lgv_runs() -> None:
    x, y = images()
    mixed = mixture(Substitute(quantized(), ("w", "wa")), lgv(), (1, 1))
    with mixed.session():
        first = get("mim")(mixed, x, y, eps=EPS, steps=4, rng=rng())
        assert torch.equal(get("mim")(mixed, x[1:2], y[1:2], eps=EPS, steps=4, rng=rng(1, first=1)), first[1:2])
    with pytest.raises(UserError, match="ratio"):
        mixture(mixed, mixed, (0, 0))


def test_every_forward_moves_with_each_forward_pass() -> None:
    crafter = Substitute(quantized(), ("wa", "w"), every="forward")
    seen = states_seen(crafter)
    run(crafter, Attack(), batches=2, steps=3)
    assert seen == ["wa", "w", "wa"] * 2


@contextmanager
def _forbidden(_module: nn.Module) -> Iterator[Tensor]:
    raise AssertionError
    yield


def test_sessions_freeze_through_the_quantisers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "frozen", _forbidden)
    with pytest.raises(AssertionError), Substitute(net()).session():
        pass


def test_lgv_loads_into_the_network_inside_a_wrapper() -> None:
    inside = net()
    wrapper = nn.Sequential(inside).eval()
    crafter = LGV(wrapper, [net(11).state_dict(), net(12).state_dict()], part=inside)
    x, _ = images()
    with crafter.session():
        outputs = []
        for t in range(2):
            crafter.begin_iteration(t)
            outputs.append(crafter(x))
    expected = [net(11 + i)(x) for i in crafter._order]
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(outputs, expected, strict=True))


def test_the_attack_phase_starts_the_schedule_anew() -> None:
    """Three masks and four steps: without a restart the fourth pass would go on where the third mask ended."""
    crafter = Substitute(quantized(), ("wa", "w"), every="forward", feature_layer="layer1")
    seen = states_seen(crafter)
    run(crafter, Attack(loss=FeatureImportance(masks=3)), steps=4)
    assert seen == ["wa", "w", "wa", "wa", "w", "wa", "w"]
