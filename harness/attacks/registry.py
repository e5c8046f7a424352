"""Attacks by name: presets and their aliases, from this package and from others."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, get_args, runtime_checkable

from torch import Tensor, nn

from harness.attacks import plugins
from harness.attacks.attack import Attack
from harness.attacks.compose import compose
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
    build: Callable[[], AttackLike]

    @property
    def year(self) -> int | None:
        """Year of publication, as the source states it."""
        found = re.search(r"\b(?:19|20)\d\d\b", self.source)
        return int(found[0]) if found else None

    @property
    def doc(self) -> str:
        """Published settings and deviations."""
        return " ".join((self.build.__doc__ or "").split())

    def attack(self) -> AttackLike:
        """Return the attack."""
        attack = self.build()
        return replace(attack, category=self.category, source=self.source) if isinstance(attack, Attack) else attack


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
    """Return the ids of all presets, family by family, then those that installed packages offer."""
    families = get_args(Category)
    ours = sorted(PRESETS, key=lambda name: families.index(PRESETS[name].category))
    return (*ours, *(name for name in plugins.installed() if name not in PRESETS))


def canonical(name: str) -> str:
    """Return the name of a preset that is given by an alias, with a warning; any other name is returned as it is."""
    if name in ALIASES:
        warnings.warn(f"attack {name!r} is called {ALIASES[name]!r} now", DeprecationWarning, stacklevel=3)
    return ALIASES.get(name, name)


def info(name: str) -> Preset:
    """Return the record of a preset, or of an attack of an installed package; an alias warns.

    Raises:
        UserError: there is no such attack.
    """
    name = canonical(name)
    if name in PRESETS:
        return PRESETS[name]
    installed = plugins.installed()
    if name not in installed:
        near = did_you_mean(name, [*PRESETS, *ALIASES, *installed])
        raise UserError(
            f"unknown attack {name!r}{near} (harness attacks lists them; a file is given as path/to/attack.py:MyAttack)"
        )
    attack = plugins.from_entry_point(installed[name], {})

    def build() -> AttackLike:
        return attack

    build.__doc__ = attack.call.__doc__ if isinstance(attack, plugins.Foreign) else None
    return Preset(name, attack.category, attack.source, build)


def get(spec: str | Mapping[str, object] | Callable[..., object]) -> AttackLike:
    """Return the attack that `spec` describes.

    A string is the id of a preset or of an installed package's attack, `path/to/attack.py:MyAttack`, `torchattacks:NAME`, or
    `transferattack:NAME`. A mapping composes parts (`harness.attacks.compose`), or gives options to an attack from elsewhere:
    `{use: "torchattacks:VMIFGSM", options: {N: 5}}`. An attack is returned as it is, and one of your own, a class, an
    instance or a function of the signature attack(model, x, y, *, eps, steps, rng), is made to take any network.

    Raises:
        UserError: there is no such attack, or the mapping does not describe one.
    """
    if isinstance(spec, str):
        return _named(spec, {})
    if isinstance(spec, Attack | plugins.Foreign):
        return spec
    if not isinstance(spec, Mapping):
        if callable(spec):
            return plugins.from_value(spec)
        raise UserError(f"an attack is given by its name, by a mapping of its parts, or as a callable, not by {spec!r}")
    if spec.get("name") in PRESETS or spec.get("name") in ALIASES:
        raise UserError(
            f"attack {spec['name']}: a preset has that name, so a row of it would not say what was run; give the composition "
            f"a name of its own, such as {spec['name']}-mine"
        )
    if "use" not in spec:
        return compose(spec, _resolve)
    unknown = [str(key) for key in spec if key not in ("name", "use", "options")]
    options = spec.get("options") or {}
    if unknown or not isinstance(options, Mapping):
        what = f"not {unknown[0]!r}" if unknown else f"options being a mapping, not {options!r}"
        raise UserError(
            f"attack {spec.get('name', spec['use'])}: beside `use` an attack takes only name and options, {what}"
        )
    return _named(str(spec["use"]), {str(key): value for key, value in options.items()})


def _resolve(spec: object) -> object:
    return get(spec)  # type: ignore[arg-type]


def _named(name: str, options: Mapping[str, object]) -> AttackLike:
    if name.startswith("torchattacks:"):
        return plugins.from_torchattacks(name, options)
    if name.startswith("transferattack:"):
        return plugins.from_library(name, options)
    if ".py:" in name:
        return plugins.from_file(name, options)
    if name not in PRESETS and name not in ALIASES and name in plugins.installed():
        return plugins.from_entry_point(plugins.installed()[name], options)
    record = info(name)
    if options:
        raise UserError(
            f"attack {name!r} is composed of parts; replace them by `base: {name}` and the parts, not by options"
        )
    return record.attack()
