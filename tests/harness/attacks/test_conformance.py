"""What every attack must hold, on every kind of substitute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import Attack, Rng, get, info, names
from harness.attacks.budget import at_cost
from harness.attacks.registry import PRESETS
from harness.attacks.update import SignStep
from harness.substitutes import Crafter
from tests.harness.attacks.nets import EPS, SUBSTITUTES, images, pool, substitute

PAPER = ("fia", "fia-released", "rpa", "ssa", "admix", "cim")
"""Attacks of the paper, run with all their copies."""
PER_BATCH = ("universal", "patch")
SLOW_TO_RISE = ("p2fa", "tgr")
"""Their first steps follow another objective, or a part of the gradient, and may lower the loss of a random network."""
TARGETED = {name for name in PRESETS if get(name).target is not None}  # type: ignore[attr-defined]


class _Mark(torch.autograd.Function):
    """Identity that notes when a backward pass comes through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, done: set[int], token: int) -> Tensor:
        ctx.done, ctx.token = done, token
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.done.add(ctx.token)
        return grads[0], None, None


class Counted:
    """A substitute that counts the images that pass forwards and backwards through it."""

    def __init__(self, inner: Crafter) -> None:
        self.inner = inner
        self.per_forward = inner.per_forward
        self.sizes: list[float] = []
        self.part = 1.0
        self.returned: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _mark(self, tensor: Tensor) -> Tensor:
        marked: Tensor = _Mark.apply(tensor, self.returned, len(self.sizes) - 1)  # type: ignore[no-untyped-call]
        return marked

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x) * self.part)
        return self._mark(self.inner(self._mark(x)))

    def features(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.sizes.append(len(x) * self.part)
        logits, features = self.inner.features(self._mark(x) if x.requires_grad else x)
        return self._mark(logits), features

    @property
    def together(self) -> tuple[Counted, ...] | None:
        """The members one by one, each an equal part of a pass; None where the substitute is no ensemble."""
        inside = getattr(self.inner, "together", None)
        if inside is None:
            return None
        each = tuple(Counted(member) for member in inside)
        for member in each:
            member.sizes, member.returned, member.part = self.sizes, self.returned, self.part / len(each)
        return each

    def cost(self, count: int) -> tuple[float, float]:
        return sum(self.sizes) / count, sum(self.sizes[token] for token in self.returned) / count


def short(name: str) -> Attack:
    """Return the preset with few steps; everything else as published."""
    attack = get(name)
    assert isinstance(attack, Attack)
    if attack.steps == 1:
        return attack
    if name in SLOW_TO_RISE:
        return at_cost(attack.but(steps=10), 2, 40)
    few = attack.but(steps=3 if attack.but(steps=1).cost(1).forwards <= 15 else 2)
    most = 24 if name == "maskblock" else 12  # fewer blocks of MaskBlock's grid would leave one, which every seed masks
    return few if name in PAPER or few.cost(1).backwards <= most else at_cost(few, 2, most)


def arch_for(name: str) -> str:
    return "vit" if name == "tgr" else "resnet"


def state_of(crafter: Crafter) -> list[object]:
    state: list[object] = []
    for network in crafter.networks():
        for name, part in network.named_modules():
            hooks = [len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks)]
            state.append((name, part.training, getattr(part, "enabled", None), hooks))
        state += [(name, p.requires_grad, p.grad is None) for name, p in network.named_parameters()]
        state += [(name, tensor.double().sum().item()) for name, tensor in network.state_dict().items()]
    return state


@contextmanager
def untouched(crafter: Crafter) -> Iterator[None]:
    before = state_of(crafter)
    yield
    assert state_of(crafter) == before


def same(a: Tensor, b: Tensor) -> bool:
    """Equal but for a few pixels, whose gradient may be zero up to the order of a sum."""
    return ((a - b).abs() > 1e-9).double().mean().item() < 1e-3


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k == "ptq-qaa" else k for k in SUBSTITUTES])
@pytest.mark.parametrize("name", PRESETS)
def test_attack_conforms(name: str, kind: str) -> None:
    attack, crafter = short(name), substitute(kind, arch_for(name))
    x, y = images()
    target = (y + 1) % 5 if name in TARGETED else None

    def run(model: Crafter | Counted, rows: list[int], chunk: int | None = None) -> Tensor:
        return attack(
            model,  # type: ignore[arg-type]
            x[rows],
            y[rows],
            eps=EPS,
            steps=1,  # the attack has its own
            rng=Rng(0, rows),
            pool=pool(),
            target=None if target is None else target[rows],
            chunk=chunk,
        )

    with untouched(crafter), crafter.session():
        counted = Counted(crafter)
        with untouched(crafter):
            adv = run(counted, [0, 1, 2])
        if kind == "qaa":  # the others are covered by the looser line below
            assert torch.equal(run(crafter, [0, 1, 2]), adv), "same seed, same bits"
        assert same(run(crafter, [2, 0], chunk=3), adv[[2, 0]]), "batch-mates, order and chunks do not matter"
        if name in PER_BATCH:  # one perturbation raises the loss of the images that it was made on, not of each
            x, y = pool().images.double() / 255, pool().labels
            whole_attack = get(name)
            adv = whole_attack(crafter, x, y, eps=EPS, steps=10, rng=Rng(0, range(12)), pool=pool())
        crafter.begin_batch()
        with torch.no_grad():
            labels = y if target is None else target
            before, after = (F.cross_entropy(crafter(z), labels).item() for z in (x, adv))
        assert (after > before) if target is None else (after < before)

    level = ((adv * 255).round() - (x * 255).round()).abs().max().item()
    whole = attack.step_size is None and isinstance(attack.update, SignStep)
    assert level == 16 if whole else 0 < level <= 16
    assert torch.isfinite(adv).all() and adv.min() >= 0 and adv.max() <= 1 and not adv.requires_grad
    declared = attack.cost(1)
    chosen = attack.target is not None  # the forward pass that chooses a target was spared: it was given
    members = 2 if kind == "ensemble" else 1
    more = {"adaea": members - 1, "smer": attack.gradient.evaluations() * (members - 1)}.get(name, 0) * (
        attack.steps or 1
    )
    forwards, backwards = counted.cost(1 if name in PER_BATCH else 3)
    assert backwards == pytest.approx(declared.backwards)
    assert forwards == pytest.approx(declared.forwards - chosen + more)


@pytest.mark.parametrize("name", PRESETS)
def test_seeds_matter_where_there_is_randomness(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed makes another image exactly when the attack draws something."""
    attack = short(name)
    drawn: list[str] = []

    def noted(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*args: Any, **options: Any) -> Tensor:
            drawn.append(name)
            return original(*args, **options)

        return draw

    for kind in ("uniform", "normal", "integers", "bernoulli"):
        monkeypatch.setattr(Rng, kind, noted(getattr(Rng, kind)))
    x, y = images()
    crafter = substitute("ensemble" if attack.category == "ensemble" else "plain", arch_for(name))
    made = [attack(crafter, x, y, eps=EPS, steps=2, rng=Rng(seed, range(3)), pool=pool()) for seed in (0, 1)]
    assert torch.equal(made[0], made[1]) != bool(drawn)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_what_they_are(name: str) -> None:
    record = info(name)
    attack = record.attack()
    assert attack.category == record.category and attack.category != "unclassified" and attack.source == record.source
    assert (record.year is None) == record.source.startswith("released code")
    assert len(record.doc) > 5 and record.doc.endswith(".") and record.source
    assert attack == get(name) and hash(attack) == hash(get(name)) and name in names()


@pytest.mark.parametrize("name", ["mim", "cim", "ssa", "fia", "rpa", "admix"])
def test_float32_in_fixed_blocks(name: str) -> None:
    """What the harness does: padded blocks of one size, in float32, where a kernel's batch size could decide."""
    from tests.harness.attacks.nets import net

    model = net(dtype=torch.float32)
    x, y = images(8, torch.float32)
    attack = short(name)

    def block(rows: list[int]) -> Tensor:
        return attack(model_of(model), x[rows], y[rows], eps=EPS, steps=2, rng=Rng(0, rows), pool=pool())

    whole = block(list(range(4)))
    assert torch.equal(block([1, 0, 7, 7])[:2], whole[[1, 0]])


def model_of(module: nn.Module) -> Any:
    from harness.attacks import as_model

    return as_model(module, "layer1")
