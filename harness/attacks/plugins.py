"""Attacks from elsewhere: installed packages, files, torchattacks and TransferAttack."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import get_args

import torch
from torch import Tensor, nn

from harness.attacks.attack import Attack, check
from harness.attacks.model import Model, as_model
from harness.attacks.parts import Category, Cost
from harness.attacks.pool import Pool
from harness.attacks.rng import Rng
from zoo.errors import UserError, did_you_mean

GROUP = "harness.attacks"
"""Entry-point group in which a package offers attacks: `my-attack = "my_package.module:MyAttack"`."""


@dataclass(frozen=True)
class Foreign:
    """An attack that brings its own loop. What it returns is checked and projected; it is never trusted.

    The repr holds where it comes from, with the sha256 of its file or the version of its package, and its settings.
    """

    origin: str
    version: str
    options: tuple[tuple[str, object], ...] = ()
    call: object = field(default=None, compare=False, repr=False)

    @property
    def category(self) -> Category:
        """What the attack says it belongs to."""
        said = getattr(self.call, "category", None)
        return next((category for category in get_args(Category) if category == said), "unclassified")

    @property
    def source(self) -> str:
        """What the attack names as its publication, else where it comes from."""
        return str(getattr(self.call, "source", "") or self.origin)

    def cost(self, steps: int) -> Cost | None:
        """Return what the attack declares, or None."""
        declared = getattr(self.call, "cost", None)
        return Cost(*declared(steps)) if callable(declared) else None

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
        """Run the attack and project what it returns."""
        model = as_model(model)
        check(x, y, eps, steps, rng, target, chunk)
        given = {"rng": rng.fresh(), "pool": pool, "target": target, "chunk": chunk}
        taken = inspect.signature(self.call).parameters if callable(self.call) else {}
        everything = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
        wanted = {name: value for name, value in given.items() if everything or name in taken}
        if target is not None and "target" not in wanted:
            raise UserError(f"{self.origin} takes no target; give its call a parameter `target`")
        assert callable(self.call)
        model.begin_batch()
        adv = self.call(model, x.clone(), y.clone(), eps=eps, steps=steps, **wanted)
        model.begin_batch()
        if not isinstance(adv, Tensor) or adv.shape != x.shape or not adv.is_floating_point():
            got = f"{tuple(adv.shape)} {adv.dtype}" if isinstance(adv, Tensor) else type(adv).__name__
            raise UserError(f"{self.origin} must return float images {tuple(x.shape)}, one per input, not {got}")
        if not bool(torch.isfinite(adv).all()):
            raise UserError(
                f"{self.origin} returned values that are not finite; check its gradients for a division by zero"
            )
        low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
        return torch.clamp(adv.detach().to(x), low, high)


def installed() -> dict[str, EntryPoint]:
    """Return the attacks that installed packages offer, by name; none of them is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def from_entry_point(point: EntryPoint, options: Mapping[str, object]) -> Attack | Foreign:
    """Import what a package offers.

    Raises:
        UserError: it cannot be imported, or is not an attack.
    """
    version = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
    try:
        offered = point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"attack {point.name!r} of {version} cannot be loaded ({error}); reinstall that package"
        ) from error
    return _attack(offered, point.name, version, options)


def from_file(origin: str, options: Mapping[str, object]) -> Attack | Foreign:
    """Load `path/to/attack.py:MyAttack`. The file is run: give only files that you trust.

    Raises:
        UserError: no such file or name in it, or it is not an attack.
    """
    place, _, name = origin.rpartition(":")
    path = Path(place)
    if not path.is_file():
        raise UserError(
            f"there is no attack file {place!r}; give the path of a Python file and a name in it: attack.py:MyAttack"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    module = _executed(path.absolute(), digest)
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise UserError(f"{place} has no {name!r}{did_you_mean(name, public)}")
    return _attack(getattr(module, name), f"{path.name}:{name}", f"sha256 {digest}", options)


def from_value(offered: Callable[..., object]) -> Attack | Foreign:
    """Return a class, an instance or a function of the caller's as an attack.

    Raises:
        UserError: it cannot be called as an attack, or the class cannot be made without arguments.
    """
    kind = offered if inspect.isroutine(offered) or isinstance(offered, type) else type(offered)
    origin = f"{kind.__module__}.{kind.__qualname__}"
    try:
        version = f"sha256 {hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()}"
    except (OSError, TypeError):  # typed at a prompt
        version = "of unknown source"
    return _attack(offered, origin, version, {})


@cache
def _executed(path: Path, digest: str) -> ModuleType:
    """Run a file as a module, once in a process for each content of it."""
    spec = importlib.util.spec_from_file_location(f"harness_attack_{digest[:16]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UserError(f"{path} cannot be loaded: {error}") from error
    return module


def from_torchattacks(origin: str, options: Mapping[str, object]) -> Foreign:
    """Return the attack `torchattacks:NAME` of that package, with its options."""
    from harness.attacks.adapters import TorchAttack, version

    name = origin.partition(":")[2]
    return Foreign(origin, version(), _settings(options), TorchAttack(name, _settings(options)))


def from_library(origin: str, options: Mapping[str, object]) -> Foreign:
    """Return the attack `transferattack:NAME` of that library, with its options."""
    from harness.attacks.adapters import LibraryAttack, library_version

    name = origin.partition(":")[2]
    return Foreign(origin, library_version(), _settings(options), LibraryAttack(name, _settings(options)))


def _settings(options: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(options.items()))


def _attack(offered: object, origin: str, version: str, options: Mapping[str, object]) -> Attack | Foreign:
    """Turn a class or an instance into an attack; a function with the signature of an attack is one already."""
    if isinstance(offered, type):
        try:
            offered = offered(**options)
        except TypeError as error:
            raise UserError(f"{origin} does not accept these options: {error}") from error
    elif options:
        raise UserError(f"{origin} is not a class, so it takes no options; it was given {', '.join(options)}")
    if type(offered) is Attack:  # a subclass may compute otherwise, which its fields do not tell
        return replace(offered, origin=f"{origin} {version}")
    if not callable(offered):
        raise UserError(f"{origin} is not an attack: it must be callable as attack(model, x, y, *, eps, steps, rng)")
    missing = {"eps", "steps"} - set(inspect.signature(offered).parameters)
    if missing and not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(offered).parameters.values()):
        raise UserError(
            f"{origin} lacks the parameter {sorted(missing)[0]!r}: an attack is called as attack(model, x, y, *, eps, steps, rng)"
        )
    return Foreign(origin, version, _settings(options), offered)
