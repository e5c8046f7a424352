"""How long things take, in units that carry over between machines: bare passes of one network, timed in the same rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import Images, Rng, get
from harness.runs.answers import predict
from harness.runs.craft import images_per_pass
from harness.runs.workspace import Workspace
from harness.suites.suite import Suite
from zoo.errors import UserError
from zoo.kernels import fixed
from zoo.loading.load import load_entry
from zoo.quant import is_quantized

ATTACKS = ("mim", "cim", "ssa")
"""What is timed unless something else is asked for: a plain attack, one of many transforms, one of many samples."""
SAMPLE_SECONDS = 0.1
"""A bare pass is repeated for so long, as one alone is too short to time."""
PEERS = {
    "pgd": "PGD",
    "mim": "MIFGSM",
    "di": "DIFGSM",
    "ti": "TIFGSM",
    "ni": "NIFGSM",
    "sini": "SINIFGSM",
    "vmi": "VMIFGSM",
    "vni": "VNIFGSM",
}
"""Attacks that torchattacks has too. Its VMI and VNI take 5 neighbours where these take the published 20."""
PEER_PASSES = {"sini": 5.0, "vmi": 6.0, "vni": 6.0}
"""Passes of the peer's attack in each of its steps, where that is not one."""


@dataclass(frozen=True)
class Speed:
    """One thing that was timed: an attack, a peer's attack, scoring, loading or a training step."""

    kind: str
    substitute: str
    """The substitute or model."""
    attack: str
    """The attack; empty for what is none."""
    images: int
    """Images in the block that was worked on."""
    forwards: int
    """Forward passes per image that make the unit."""
    backwards: int
    """Backward passes per image, likewise."""
    seconds: float
    """Time per image; of loading, of the whole model."""
    bare: float
    """Time per image of as many passes of the bare reference network, timed in the same rounds."""
    ratio: float
    """Time over that of the bare passes: the median over rounds."""
    low: float
    """Smallest ratio of a round."""
    high: float
    """Largest ratio of a round."""
    launches: int | None
    """Kernels that a GPU was asked to run per iteration of the attack; null on a CPU."""
    peak_bytes: int | None
    """Most memory that tensors took on a GPU; null on a CPU."""

    @property
    def name(self) -> str:
        """What was timed, as listings call it."""
        parts = [self.kind] * (self.kind != "attack") + [self.substitute]
        return " ".join(parts) + (f" x {self.attack}" if self.attack else "")

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the name that every listing has."""
        return {"name": self.name, **asdict(self)}


class Item(NamedTuple):
    """Something to time, and the passes of the reference that it is compared with."""

    kind: str
    substitute: str
    attack: str
    forwards: float
    backwards: float
    work: Callable[[], object]


def default_substitutes(suite: Suite) -> list[str]:
    """Return what a suite's first pair compares: full precision, the low-bit nets, QAA; all substitutes without pairs."""
    if not suite.pairs:
        return [s.name for s in suite.substitutes]
    pair = suite.pairs[0]
    return [pair.baseline, *pair.controls[:1], pair.substitute]


def speeds(
    workspace: Workspace,
    substitutes: Sequence[str],
    attacks: Sequence[str],
    reference: str | None = None,
    rounds: int = 3,
    more: bool = False,
) -> list[Speed]:
    """Time attacks on substitutes, and everything else with `more`; each round times all of it, each beside bare passes.

    Args:
        workspace: the suite, device and registry.
        substitutes: substitutes of the suite.
        attacks: their names.
        reference: the model whose bare passes are the unit; the first model of the first substitute when None.
        rounds: how often everything is timed, after one round that warms up.
        more: also torchattacks' attacks where it has them, scoring, loading, and training steps.

    Raises:
        UserError: an unknown name, a model that is not here, or an attack that declares no cost.
    """
    unit = reference or workspace.suite.substitute(substitutes[0]).models[0]
    net = workspace.target(unit)
    x = workspace.data.images[: workspace.suite.block].to(workspace.context.device).float() / 255
    items = list(_attack_items(workspace, substitutes, attacks, x))
    if more:
        items += [*_peer_items(workspace, unit, attacks, x), *_other_items(workspace, substitutes, unit, x)]
    times: list[list[tuple[float, float]]] = [[] for _ in items]
    for round_ in range(rounds + 1):
        for item, found in zip(items, times, strict=True):
            forward, backward = _bare(net, x)
            taken = timed(item.work, x.device)
            after = _bare(net, x)  # on both sides: a machine's pace drifts
            unit_seconds = item.forwards * (forward + after[0]) / 2 + item.backwards * (backward + after[1]) / 2
            if round_:  # the first is slow
                found.append((taken, unit_seconds))
    return [_speed(item, found, x) for item, found in zip(items, times, strict=True)]


def _speed(item: Item, times: list[tuple[float, float]], x: Tensor) -> Speed:
    seconds, bare = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [taken / expected for taken, expected in times]
    per = 1 if item.kind == "loading" else len(x)
    launches, peak = _device_facts(item.work, x)
    return Speed(
        kind=item.kind,
        substitute=item.substitute,
        attack=item.attack,
        images=len(x),
        forwards=round(item.forwards),
        backwards=round(item.backwards),
        seconds=seconds / per,
        bare=bare / per,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        launches=None if launches is None else round(launches / max(1, item.backwards or item.forwards)),
        peak_bytes=peak,
    )


def _attack_items(workspace: Workspace, substitutes: Sequence[str], attacks: Sequence[str], x: Tensor) -> list[Item]:
    items = []
    for attack in attacks:
        cost = workspace.attack(attack).cost(workspace.suite.steps)
        if cost is None:
            raise UserError(f"attack {attack!r} declares no cost, so there is nothing to compare its time with")
        for name in substitutes:
            workspace.suite.substitute(name)
            work = _crafting(workspace, name, attack, x)
            items.append(Item("attack", name, attack, cost.forwards, cost.backwards, work))
    return sorted(items, key=lambda item: substitutes.index(item.substitute))


def _crafting(workspace: Workspace, name: str, attack: str, x: Tensor) -> Callable[[], object]:
    """Return what crafts one block as a run does; the substitute stays loaded from one attack to the next, as in a run."""
    parts, suite, context = workspace.attack(attack), workspace.suite, workspace.context
    labels = workspace.data.labels[: len(x)].to(x.device)
    rng, pool = Rng(0, range(len(x)), x.device), Images(workspace.full.images, workspace.full.labels)
    chunk, held = images_per_pass(x, suite.block), workspace.substitute(name)

    def craft() -> None:
        with fixed(context.device, context.precision), held.session():
            parts(held, x, labels, eps=suite.budget.eps, steps=suite.steps, rng=rng, pool=pool, chunk=chunk)

    return craft


def _peer_items(workspace: Workspace, unit: str, attacks: Sequence[str], x: Tensor) -> list[Item]:
    """Return torchattacks' attacks on the plain reference network; none where it is not installed."""
    try:
        import torchattacks
    except ImportError:
        return []
    net, suite = load_entry(workspace.registry[unit]).to(x.device).eval(), workspace.suite
    labels = workspace.data.labels[: len(x)].to(x.device)
    items = []
    for name in (name for name in attacks if name in PEERS):
        with suppress(RuntimeError, ValueError):  # one of them takes images of three channels only
            steps = getattr(get(name), "steps", None) or suite.steps
            theirs = getattr(torchattacks, PEERS[name])(net, eps=suite.budget.eps, alpha=suite.budget.eps / steps, steps=steps)
            theirs(x, labels)
            passes = steps * PEER_PASSES.get(name, 1.0)
            items.append(Item("torchattacks", unit, name, passes, passes, lambda theirs=theirs: theirs(x, labels)))  # type: ignore[misc]
    return items


def _other_items(workspace: Workspace, substitutes: Sequence[str], unit: str, x: Tensor) -> list[Item]:
    """Return scoring, loading and training steps of the models inside the substitutes."""
    models = list(dict.fromkeys(m for name in substitutes for m in workspace.suite.substitute(name).models))
    context = workspace.context
    pixels = workspace.data.images[: len(x)]
    items = []
    for name in models:
        net = load_entry(workspace.registry[name]).to(x.device)
        scoring = lambda net=net: predict(net, pixels, context.device, context.precision)  # noqa: E731
        items.append(Item("scoring", name, "", 1, 0, scoring))
        loading = lambda name=name: load_entry(workspace.registry[name]).to(x.device)  # noqa: E731
        items.append(Item("loading", name, "", 1, 0, loading))
        trained = load_entry(workspace.registry[name]).to(x.device)
        if any(p.requires_grad for p in trained.parameters()) and (name == unit or is_quantized(trained)):
            items.append(Item("training step", name, "", 1, 1, _training(trained, workspace, x)))
    return items


def _training(net: nn.Module, workspace: Workspace, x: Tensor) -> Callable[[], object]:
    """Return a step of stochastic gradient descent on one block."""
    labels = workspace.data.labels[: len(x)].to(x.device)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        net.train()
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(x), labels))
        optimiser.step()

    return step


def bare(net: nn.Module, x: Tensor, rounds: int) -> tuple[float, float]:
    """Return the seconds per image of a forward pass and of the gradient that follows it: medians over rounds."""
    times = [_bare(net, x) for _ in range(rounds + 1)][1:]
    forward, backward = (statistics.median(column) for column in zip(*times, strict=True))
    return forward / len(x), backward / len(x)


def _bare(net: nn.Module, x: Tensor) -> tuple[float, float]:
    """Return the seconds of a forward pass and of the input gradient that follows it, means over a while."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    forward = backward = 0.0
    count = 0
    try:
        while forward + backward < SAMPLE_SECONDS / 2:
            point = x.clone().requires_grad_(True)
            kept: list[Tensor] = []
            forward += timed(lambda kept=kept, point=point: kept.append(net(point).sum()), x.device)  # type: ignore[misc]
            backward += timed(lambda kept=kept, point=point: torch.autograd.grad(kept[0], point), x.device)  # type: ignore[misc]
            count += 1
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    return forward / count, backward / count


def timed(work: Callable[[], object], device: str | torch.device) -> float:
    """Return the seconds that work takes: of this process's one thread on a CPU, where others may be at work too."""
    if torch.device(device).type != "cuda":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _device_facts(work: Callable[[], object], x: Tensor) -> tuple[int | None, int | None]:
    """Return the kernels that work launches on a GPU and the most memory that its tensors take there."""
    if not x.is_cuda:
        return None, None
    torch.cuda.reset_peak_memory_stats(x.device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize(x.device)
    launches = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaLaunchKernelExC", "cuLaunchKernelEx")
    count = sum(event.count for event in profiler.key_averages() if event.key in launches)
    return count, torch.cuda.max_memory_allocated(x.device)
