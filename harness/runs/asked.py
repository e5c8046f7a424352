"""Attacks as callers ask for them, written as a suite writes them: by name, or as a mapping that another process can read."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.suites.selection import attack_id
from zoo.errors import UserError

Item = str | dict[str, Any]


def written(asked: Sequence[Any] | Mapping[str, Any]) -> tuple[Item, ...]:
    """Return attacks as names and mappings; a mapping of names to attacks names them.

    Raises:
        UserError: one of them cannot be written down, so that no worker could make it and no row say what it was.
    """
    if isinstance(asked, str):
        raise UserError(f"attacks are a list, such as attacks=[{asked!r}]")
    if isinstance(asked, Mapping):
        return tuple(_named(name, attack) for name, attack in asked.items())
    return tuple(_written(attack) for attack in asked)


def changed(names: Sequence[str], changes: Sequence[str]) -> tuple[Item, ...]:
    """Return the named attacks with changes applied, each KEY=VALUE with a value in YAML and dots between nested keys.

    They are called after what they are and what was changed: mim with decay=0.5 is mim-decay-0.5.

    Raises:
        UserError: no attack is named, or a change is not of that form.
    """
    if not changes:
        return tuple(names)
    if not names:
        raise UserError("--set changes the attacks that --attack names; name at least one")
    settings: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        steps = key.strip().split(".")
        if not equals or not all(steps):
            raise UserError(f"--set {change}: write KEY=VALUE, such as decay=0.5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {change}: the value is no YAML ({error})") from error
        inner = settings
        for step in steps[:-1]:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {change}: {step} was set to a value already")
        inner[steps[-1]] = value
    suffix = re.sub(r"[^a-z0-9.]+", "-", "-".join(changes).lower()).strip("-.")
    return tuple(_changed(name, settings, suffix) for name in names)


def _changed(name: str, settings: dict[str, Any], suffix: str) -> Item:
    if ":" in name:
        return {"name": f"{attack_id(name)}-{suffix}", "use": name, "options": settings}
    return {"name": f"{name}-{suffix}", "base": name, **settings}


def _named(name: str, attack: Any) -> Item:
    item = _written(attack)
    if isinstance(item, str):
        return {"name": name, "use": item} if ":" in item else {"name": name, "base": item}
    return {**item, "name": name}


def _written(attack: Any) -> Item:
    from harness.attacks.attack import Attack
    from harness.attacks.compose import compose, decompose
    from harness.attacks.plugins import Foreign
    from harness.attacks.registry import PRESETS, get

    if isinstance(attack, str):
        return attack
    if isinstance(attack, Mapping):
        return dict(attack)
    if isinstance(attack, Foreign):
        if attack.origin.startswith(("torchattacks:", "transferattack:")):
            name = attack_id(attack.origin)
            return {"name": name, "use": attack.origin, "options": dict(attack.options)} if attack.options else attack.origin
        return _written(attack.call)
    if not isinstance(attack, Attack):
        return _from_source(attack)
    preset = next((name for name in PRESETS if get(name) == attack), None)
    if preset is not None:
        return preset
    item = decompose(attack)
    if compose(item, lambda spec: get(spec)) != attack:  # type: ignore[arg-type]
        raise UserError(f"{attack} cannot be written as a mapping of parts; give it as a file: path/to/attack.py:my_attack")
    return {"name": f"attack-{hashlib.sha256(repr(attack).encode()).hexdigest()[:8]}", **item}


def _from_source(offered: Any) -> Item:
    """Return an attack that a file defines at its top, by that file and its name in it."""
    kind = offered if inspect.isroutine(offered) or isinstance(offered, type) else type(offered)
    if not callable(offered):
        raise UserError(f"an attack is given by its name, by a mapping of its parts, or as a callable, not by {offered!r}")
    try:
        source = Path(inspect.getsourcefile(kind) or "")
    except TypeError:
        source = Path()
    if kind.__module__ == "__main__" or not source.is_file() or not kind.__qualname__.isidentifier():
        raise UserError(
            f"{kind.__qualname__}: a run starts worker processes, and its rows say what was run, so an attack of your own must "
            "be defined at the top of a file beside your script or notebook: write it to attack.py (%%writefile attack.py in "
            f"a notebook) and give attacks=['attack.py:{kind.__name__}']"
        )
    place = f"{source.absolute()}:{kind.__name__}"
    if offered is kind:
        return place
    options = dict(vars(offered))
    if is_dataclass(offered):
        options = {f.name: getattr(offered, f.name) for f in fields(offered) if f.init}
    elif options:
        raise UserError(f"{kind.__name__}: make it a dataclass, or give {{use: '{place}', options: ...}}: rows say settings")
    return {"name": attack_id(place), "use": place, "options": options} if options else place
