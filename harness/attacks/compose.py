"""Attacks from mappings of parts, as suites and the command line write them.

A mapping starts from `base` (a preset; default: a bare I-FGSM) and replaces its fields. A part is its id, or its id with
settings::

    name: fia-ti-si
    base: fia
    loss: {fia: {keep: 0.9}}
    transforms: [si, {di: {prob: 0.7}}]
    filters: [ti]
    decay: 1.0
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, ValidationInfo

from harness.attacks.attack import Attack
from harness.attacks.parts import PARTS
from zoo.errors import UserError, did_you_mean

Resolve = Callable[[object], object]

_LISTS = ("transforms", "filters")
_OPTIONAL = ("variance", "refine", "region")
_LABELS = ("name", "base", "source")


def compose(spec: Mapping[str, object], resolve: Resolve) -> Attack:
    """Return the attack that a mapping describes; `resolve` turns the name of a base into an attack.

    Raises:
        UserError: an unknown key or part, or a value of the wrong type; the message gives the path to it.
    """
    where = f"attack {spec['name']}" if "name" in spec else "attack"
    base = resolve(spec["base"]) if "base" in spec else Attack(category="unclassified")
    if not isinstance(base, Attack):
        raise UserError(f"{where}: base {spec['base']!r} is not composed of parts, so its parts cannot be replaced")
    plain: dict[str, object] = {}
    changes: dict[str, Any] = {}
    for key, value in spec.items():
        if key in _LABELS:
            continue
        if key not in PARTS:
            plain[key] = value
        elif key in _LISTS:
            items = value if isinstance(value, list | tuple) else [value]
            changes[key] = tuple(
                _part(f"{where}: {key}[{i}]", PARTS[key], item, resolve) for i, item in enumerate(items)
            )
        elif value is not None or key not in _OPTIONAL:
            changes[key] = _part(f"{where}: {key}", PARTS[key], value, resolve)
        else:
            changes[key] = None
    changes |= _validated(where, Attack, plain, resolve)
    if "category" not in changes and changes:
        changes["category"] = base.category
    return dataclasses.replace(base, **changes)


def decompose(attack: Attack) -> dict[str, Any]:
    """Return the mapping that composes an attack, all of its parts and settings stated, as plain data.

    Raises:
        UserError: one of its parts is not registered, so that no mapping names it.
    """
    made: dict[str, Any] = {}
    for each in dataclasses.fields(attack):
        value = getattr(attack, each.name)
        if each.name in _LISTS:
            made[each.name] = [_named(each.name, part) for part in value]
        elif each.name in PARTS:
            made[each.name] = None if value is None else _named(each.name, value)
        elif each.name not in (*_LABELS, "category", "origin"):
            made[each.name] = _plain(value)
    return made


def _named(slot: str, part: Any) -> dict[str, Any]:
    found = [name for name, kind in PARTS[slot].items() if kind is type(part)]  # type: ignore[index]
    if not found:
        raise UserError(f"{slot}: {part!r} is no registered part; register its class by @part, or give the attack as a file")
    return {found[0]: {f.name: _plain(getattr(part, f.name)) for f in dataclasses.fields(part) if f.init}}


def _plain(value: Any) -> Any:
    if isinstance(value, Attack):
        return decompose(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _part(where: str, known: dict[str, type], value: object, resolve: Resolve) -> object:
    """Return the part that `value` names: its id, or a mapping of its id to its settings."""
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise UserError(
            f"{where}: expected the id of a part, or one id with settings such as {{di: {{prob: 0.7}}}}, not {value!r}"
        )
    [(name, settings)] = value.items()
    if name not in known:
        raise UserError(
            f"{where}: unknown part {name!r}{did_you_mean(str(name), known)}; choose one of {', '.join(known)}"
        )
    where = f"{where}.{name}"
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise UserError(f"{where}: expected settings as a mapping, not {settings!r}")
    values = _validated(where, known[str(name)], settings, resolve)
    try:
        return known[str(name)](**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@cache
def _settings_of(kind: type) -> dict[str, TypeAdapter[Any]]:
    """Return what validates each setting of a part, or each number and flag of an attack: strictly, by its annotation."""
    names = [each.name for each in dataclasses.fields(kind) if each.init]
    if kind is Attack:
        names = [name for name in names if name not in (*PARTS, *_LABELS, "origin")]
    attack = Annotated[Any, BeforeValidator(_resolved)]  # parts that run another attack take its name or mapping
    hints = typing.get_type_hints(kind, localns={"Attack": attack}, include_extras=True)
    return {name: TypeAdapter(hints[name], config=ConfigDict(strict=True)) for name in names}


def _resolved(value: object, info: ValidationInfo) -> object:
    resolve: Resolve = info.context  # type: ignore[assignment]
    return value if isinstance(value, Attack) else resolve(value)


def _validated(where: str, kind: type, settings: Mapping[str, object], resolve: Resolve) -> dict[str, Any]:
    """Return settings as their annotations want them: lists become tuples, integers pass for floats, nothing else changes."""
    known, values = _settings_of(kind), {}
    for key, value in settings.items():
        if key not in known:
            noun, listed = ("key", ["name", "base", *PARTS, *known]) if kind is Attack else ("setting", list(known))
            has = f"it has {', '.join(listed)}" if listed else "it has none"
            raise UserError(f"{where}: unknown {noun} {key!r}{did_you_mean(str(key), listed)}; {has}")
        try:
            values[key] = known[key].validate_python(_tuples(value), context=resolve)
        except ValidationError as error:
            problem = error.errors()[0]
            path = f"{key}" + "".join(f"[{step}]" for step in problem["loc"] if isinstance(step, int))
            wanted = problem["msg"].replace("Input should be", "expected").replace("a valid tuple", "a list")
            raise UserError(
                f"{where}{': ' if kind is Attack else '.'}{path}: {wanted}, not {problem['input']!r}"
            ) from None
    return values


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
