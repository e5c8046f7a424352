"""How long attacks take, in units that carry over between machines: bare forward and backward passes, timed in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks import Images, Rng
from harness.runs.craft import images_per_pass
from harness.runs.workspace import Workspace
from harness.suites.suite import Suite
from zoo.errors import UserError

ATTACKS = ("mim", "cim", "ssa")
"""What is timed unless something else is asked for: a plain attack, one of many transforms, one of many samples."""
SAMPLE_SECONDS = 0.1
"""A bare pass is repeated for so long, as one alone is too short to time."""


@dataclass(frozen=True)
class Speed:
    """One attack on one substitute."""

    substitute: str
    attack: str
    images: int
    """Images in the block that was crafted."""
    forwards: int
    """Forward passes per image that the attack declares."""
    backwards: int
    """Backward passes per image, likewise."""
    seconds: float
    """Time per image."""
    bare: float
    """Time per image of as many passes of the bare reference network, timed in the same rounds."""
    ratio: float
    """Time of the attack over that of the bare passes: the median over rounds."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the name that every listing has."""
        return {"name": f"{self.substitute} x {self.attack}", **asdict(self)}


def default_substitutes(suite: Suite) -> list[str]:
    """Return what a suite's first pair compares: full precision, the low-bit nets, QAA; all substitutes without pairs."""
    if not suite.pairs:
        return [s.name for s in suite.substitutes]
    pair = suite.pairs[0]
    return [pair.baseline, *pair.controls[:1], pair.substitute]


def speeds(
    workspace: Workspace, substitutes: Sequence[str], attacks: Sequence[str], reference: str | None = None, rounds: int = 3
) -> list[Speed]:
    """Time attacks on substitutes, each round beside the bare passes of a reference network.

    Args:
        workspace: the suite, device and registry.
        substitutes: substitutes of the suite.
        attacks: their names.
        reference: the model whose bare passes are the unit; the first model of the first substitute when None.
        rounds: how often everything is timed.

    Raises:
        UserError: an unknown name, a model that is not here, or an attack that declares no cost.
    """
    unit = reference or workspace.suite.substitute(substitutes[0]).models[0]
    costs = {name: workspace.attack(name).cost(workspace.suite.steps) for name in attacks}
    undeclared = next((name for name, cost in costs.items() if cost is None), None)
    if undeclared is not None:
        raise UserError(f"attack {undeclared!r} declares no cost, so there is nothing to compare its time with")
    net = workspace.target(unit)
    x = workspace.data.images[: workspace.suite.block].to(workspace.context.device).float() / 255
    found = []
    for name in substitutes:
        for attack in attacks:
            cost = costs[attack]
            assert cost is not None
            times = [(_bare(net, x), _crafting(workspace, name, attack, x)) for _ in range(rounds + 1)][1:]  # the first is slow
            pairs = [(taken, cost.forwards * f + cost.backwards * b) for (f, b), taken in times]
            seconds, bare = (statistics.median(column) / len(x) for column in zip(*pairs, strict=True))
            ratio = statistics.median(taken / expected for taken, expected in pairs)
            found.append(Speed(name, attack, len(x), cost.forwards, cost.backwards, seconds, bare, ratio))
    return found


def _crafting(workspace: Workspace, name: str, attack: str, x: Tensor) -> float:
    """Return the seconds that one block takes as a run crafts it, sessions included."""
    substitute, parts, suite = workspace.substitute(name), workspace.attack(attack), workspace.suite
    labels = workspace.data.labels[: len(x)].to(x.device)
    chunk = images_per_pass(x, suite.block)
    rng, pool = Rng(0, range(len(x)), x.device), Images(workspace.full.images, workspace.full.labels)

    def craft() -> None:
        with substitute.session():
            parts(substitute, x, labels, eps=suite.budget.eps, steps=suite.steps, rng=rng, pool=pool, chunk=chunk)

    return _timed(craft, x)


def _bare(net: nn.Module, x: Tensor) -> tuple[float, float]:
    """Return the seconds of a forward pass and of the input gradient that follows it, means over a while."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    forward = backward = 0.0
    count = 0
    try:
        while forward + backward < SAMPLE_SECONDS:
            point = x.clone().requires_grad_(True)
            kept: list[Tensor] = []
            forward += _timed(lambda kept=kept, point=point: kept.append(net(point).sum()), x)  # type: ignore[misc]
            backward += _timed(lambda kept=kept, point=point: torch.autograd.grad(kept[0], point), x)  # type: ignore[misc]
            count += 1
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    return forward / count, backward / count


def _timed(work: Callable[[], object], x: Tensor) -> float:
    """Return the seconds that work takes: of this process's one thread on a CPU, where others may be at work too."""
    if not x.is_cuda:
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize(x.device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(x.device)
    return time.perf_counter() - began
