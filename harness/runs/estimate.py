"""How long a run will take on this machine: a moment of the real work is timed, and what a bench found is added to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from harness.attacks import Attack, Images, Rng
from harness.attacks.parts import Cost
from harness.runs.answers import BATCH, predict
from harness.runs.bench import timed
from harness.runs.bench_history import history_file, last_like
from harness.runs.craft import images_per_pass
from harness.runs.workspace import Workspace
from zoo.kernels import fixed

PROBE_STEPS = 2
"""Iterations of the attack that is timed: an alternating substitute takes each of its two states once."""
REPEATS = 3
"""Times that work is timed beside a first time, which is slow; the middle one of the others counts."""


@dataclass
class Pace:
    """Seconds of one process."""

    pass_: dict[str, float] = field(default_factory=dict)
    """Of one forward and backward pass of a substitute, per image."""
    forward: dict[str, float] = field(default_factory=dict)
    """Of one forward pass of a substitute without a gradient, per image."""
    scoring: dict[str, float] = field(default_factory=dict)
    """Of a target's answer, per image."""
    loading: dict[str, float] = field(default_factory=dict)
    """Of loading a substitute or target."""
    overhead: dict[str, float] = field(default_factory=dict)
    """Of an attack's passes over those of the timed one, where a bench on this hardware has found it."""

    def of(self, substitute: str, attack: str, cost: Cost | None) -> float | None:
        """Return the seconds that an attack takes per image; None when they are not known."""
        if cost is None or substitute not in self.pass_:
            return None
        alone = max(0, cost.forwards - cost.backwards) * self.forward[substitute]
        return (cost.backwards * self.pass_[substitute] + alone) * self.overhead.get(attack, 1.0)


def measure(workspace: Workspace, substitutes: list[str], targets: list[str]) -> Pace:
    """Time a block of each substitute and a batch of each target, as a run computes them."""
    pace = Pace(overhead=_overheads(workspace))
    context, images = workspace.context, workspace.data.images[:BATCH]
    for name in targets:
        pace.loading[name] = timed(partial(workspace.target, name), context.device)
        answer = partial(predict, workspace.target(name), images, context.device, context.precision)
        pace.scoring[name] = _seconds(answer, context.device) / len(images)
    for name in substitutes:
        pace.loading[name] = timed(partial(workspace.substitute, name), context.device)
        pace.pass_[name], pace.forward[name] = _crafting(workspace, name)
    return pace


def _crafting(workspace: Workspace, name: str) -> tuple[float, float]:
    """Return the seconds per image of a pass with its gradient, and of one without."""
    suite, context, held = workspace.suite, workspace.context, workspace.substitute(name)
    index = torch.arange(suite.block).clamp(max=len(workspace.data) - 1)
    x = workspace.data.images[index].to(context.device).float() / 255
    labels = workspace.data.labels[index].to(context.device)
    pool = Images(workspace.full.images, workspace.full.labels)
    attack = Attack(decay=1.0, steps=PROBE_STEPS)
    chunk = images_per_pass(x, suite.block)

    def craft() -> None:
        rng = Rng(0, index.tolist(), x.device)
        with fixed(context.device, context.precision), held.session():
            attack(held, x, labels, eps=suite.budget.eps, steps=PROBE_STEPS, rng=rng, pool=pool, chunk=chunk)

    def answer() -> None:
        with fixed(context.device, context.precision), held.session(), torch.no_grad():
            held(x)

    passes, answers = _seconds(craft, context.device), _seconds(answer, context.device)
    return passes / PROBE_STEPS / suite.block, answers / suite.block


def _seconds(work: Callable[[], object], device: str) -> float:
    return sorted(timed(work, device) for _ in range(REPEATS + 1))[REPEATS // 2]


def _overheads(workspace: Workspace) -> dict[str, float]:
    """Return each attack's time over that of MIM, pass for pass, as the last bench of this suite here has found it."""
    known = last_like(history_file(), workspace)
    timed = [speed for speed in known["speeds"] if speed["kind"] == "attack"] if known else []
    plain = {speed["substitute"]: speed["ratio"] for speed in timed if speed["attack"] == "mim"}
    ratios: dict[str, list[float]] = {}
    for speed in timed:
        if speed["substitute"] in plain:
            ratios.setdefault(speed["attack"], []).append(speed["ratio"] / plain[speed["substitute"]])
    return {attack: sum(found) / len(found) for attack, found in ratios.items()}
