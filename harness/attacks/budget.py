"""An attack at a given number of gradient passes per image, so that attacks compare at equal cost."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from harness.attacks.attack import Attack
from harness.attacks.registry import AttackLike
from harness.attacks.universal.perturbation import Square
from zoo.errors import UserError

COUNTS = ("copies", "samples", "masks", "points", "neighbours", "operators", "mixtures", "regions", "rounds", "images")
"""Settings of parts that multiply an attack's passes."""


def confined(attack: AttackLike, steps: int, passes: int | None, patch: float | None) -> AttackLike:
    """Return the attack within a suite's limits: at so many passes, and on a square of that share of the pixels.

    Raises:
        UserError: it is not composed of parts, or has no setting of so few passes.
    """
    if passes is None and patch is None:
        return attack
    if not isinstance(attack, Attack):
        raise UserError(
            "it brings its own loop, which cannot be scaled or confined; budget.passes and patch need parts"
        )
    if patch is not None:
        attack = attack.but(region=Square(share=patch))
    return attack if passes is None else at_cost(attack, steps, passes)


@cache
def at_cost(attack: Attack, steps: int, passes: int) -> Attack:
    """Return the attack as near to `passes` gradient passes per image as it comes from below.

    An attack that takes fewer makes more steps. One that takes more makes fewer copies or samples, all scaled alike, and
    with one of each still too many, fewer steps. The path stays as long: steps * step_size is what it was.

    Args:
        attack: what is scaled.
        steps: the suite's iterations, for an attack that fixes none.
        passes: gradient passes per image, at most.

    Raises:
        UserError: one step of it, with one copy, takes more.
    """

    def cost(candidate: Attack) -> int:
        return candidate.cost(steps).backwards

    if cost(attack) > passes:
        attack = _thinned(attack, lambda candidate: cost(candidate) <= passes)
    if cost(attack) == passes:
        return attack
    published = attack.steps or steps
    low, high = 0, max(published, passes)
    while low < high:  # the cost rises with the steps
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(_stepped(attack, published, middle)) <= passes else (low, middle - 1)
    if not low:
        least = cost(_stepped(attack, published, 1))
        raise UserError(
            f"one step of this attack takes {least} gradient passes per image, so it has no setting of {passes}"
        )
    return attack if low == published else _stepped(attack, published, low)


def _stepped(attack: Attack, published: int, steps: int) -> Attack:
    size = None if attack.step_size is None else attack.step_size * published / steps
    return dataclasses.replace(attack, steps=steps, step_size=size)


def _thinned(attack: Attack, fits: Any) -> Attack:
    """Return the attack with the largest share of its copies that fits, or with one of each."""
    thinnest = attack
    for share in range(99, -1, -1):
        candidate = _share(attack, share / 100)
        if candidate is not None:
            thinnest = candidate
            if fits(candidate):
                break
    return thinnest


def _share(attack: Attack, share: float) -> Attack | None:
    """Return the attack with that share of every count, at least 1; None where a part does not allow it."""
    changes: dict[str, Any] = {}
    try:
        for field in dataclasses.fields(attack):
            value = getattr(attack, field.name)
            if isinstance(value, tuple):
                changes[field.name] = tuple(_part(part, share) for part in value)
            elif dataclasses.is_dataclass(value):
                changes[field.name] = _part(value, share)
    except UserError:
        return None
    return dataclasses.replace(attack, **changes)


def _part(part: Any, share: float) -> Any:
    counts = {
        f.name: max(1, round(getattr(part, f.name) * share)) for f in dataclasses.fields(part) if f.name in COUNTS
    }
    return dataclasses.replace(part, **counts) if counts else part
