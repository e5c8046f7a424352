"""Attacks by name: presets and their aliases, from this package and from others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from harness.attacks.attack import Attack
from harness.attacks.model import Model
from harness.attacks.parts import Category, Cost
from harness.attacks.pool import Pool
from harness.attacks.rng import Rng
from zoo.errors import UserError, did_you_mean


@runtime_checkable
class AttackLike(Protocol):
    """The call that every attack answers, whether composed of parts or with a loop of its own."""

    @property
    def category(self) -> Category:
        """The family it belongs to."""

    @property
    def source(self) -> str:
        """Where it was published."""

    def __call__(
        self,
        model: Model | nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        eps: float,
        steps: int,
        rng: Rng,
        pool: Pool | None = None,
        target: Tensor | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Return adversarial images in [0, 1] with |adv - x| <= eps."""

    def cost(self, steps: int) -> Cost | None:
        """Return the passes per image; None when the attack does not declare them."""


@dataclass(frozen=True)
class Preset:
    """A named attack: `build` makes it, its docstring gives the published settings and each deliberate deviation."""

    name: str
    category: Category
    source: str
    build: Callable[[], Attack]

    @property
    def doc(self) -> str:
        """Published settings and deviations."""
        return " ".join((self.build.__doc__ or "").split())

    def attack(self) -> Attack:
        """Return the attack."""
        return replace(self.build(), category=self.category, source=self.source)


PRESETS: dict[str, Preset] = {}
ALIASES: dict[str, str] = {}


def preset(
    name: str, *, category: Category, source: str, aliases: tuple[str, ...] = ()
) -> Callable[[Callable[[], Attack]], Callable[[], Attack]]:
    """Register the decorated function as the maker of attack `name`; aliases work and warn."""

    def register(build: Callable[[], Attack]) -> Callable[[], Attack]:
        for each in (name, *aliases):
            if each in PRESETS or each in ALIASES:
                raise ValueError(f"attack name {each!r} is registered twice")
        PRESETS[name] = Preset(name, category, source, build)
        ALIASES.update(dict.fromkeys(aliases, name))
        return build

    return register


def names() -> tuple[str, ...]:
    """Return the ids of all presets, in the order of the families they belong to."""
    return tuple(PRESETS)


def info(name: str) -> Preset:
    """Return the preset's record; an alias warns.

    Raises:
        UserError: there is no such attack.
    """
    if name in ALIASES:
        warnings.warn(f"attack {name!r} is called {ALIASES[name]!r} now", DeprecationWarning, stacklevel=3)
        name = ALIASES[name]
    if name not in PRESETS:
        near = did_you_mean(name, [*PRESETS, *ALIASES])
        raise UserError(f"unknown attack {name!r}{near} (harness attacks lists them)")
    return PRESETS[name]


def get(spec: str | Mapping[str, object]) -> AttackLike:
    """Return the attack that `spec` names.

    Raises:
        UserError: there is no such attack.
    """
    if not isinstance(spec, str):
        raise UserError(f"an attack is given by its name, not by {spec!r}")
    return info(spec).attack()
