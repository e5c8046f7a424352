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
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from harness.attacks.attack import Attack
from harness.attacks.blocks import BlockShuffle, StructureInvariant
from harness.attacks.features import FeatureImportance, IntermediateLevel, NeuronAttribution, RandomPatch
from harness.attacks.filters import TranslationInvariant
from harness.attacks.gradients import AtPoint, EnhancedMomentum, PenalizedGradientNorm, Variance
from harness.attacks.losses import CrossEntropy, Logit
from harness.attacks.parts import Category
from harness.attacks.skip import SkipGradient
from harness.attacks.spectrum import Spectrum
from harness.attacks.transforms import Admix, DiverseInput, ScaleInvariant
from zoo.errors import UserError, did_you_mean

PARTS: dict[str, dict[str, type]] = {
    "loss": {
        "cross-entropy": CrossEntropy,
        "logit": Logit,
        "fia": FeatureImportance,
        "rpa": RandomPatch,
        "naa": NeuronAttribution,
        "ila": IntermediateLevel,
    },
    "transforms": {
        "di": DiverseInput,
        "si": ScaleInvariant,
        "admix": Admix,
        "ssa": Spectrum,
        "bsr": BlockShuffle,
        "sia": StructureInvariant,
    },
    "gradient": {"point": AtPoint, "emi": EnhancedMomentum, "pgn": PenalizedGradientNorm},
    "variance": {"vt": Variance},
    "filters": {"ti": TranslationInvariant},
    "refine": {"sgm": SkipGradient},
}
"""Slot of an attack -> id of a part -> its class."""

_LISTS = ("transforms", "filters")
_LABELS = ("name", "base", "source")


def compose(spec: Mapping[str, object], resolve: Callable[[object], object]) -> Attack:
    """Return the attack that a mapping describes; `resolve` turns the name of a base into an attack.

    Raises:
        UserError: an unknown key or part, or a value of the wrong type; the message gives the path to it.
    """
    where = f"attack {spec['name']}" if "name" in spec else "attack"
    base = resolve(spec["base"]) if "base" in spec else Attack(category="unclassified")
    if not isinstance(base, Attack):
        raise UserError(f"{where}: base {spec['base']!r} is not composed of parts, so its parts cannot be replaced")
    settings = {key: value for key, value in spec.items() if key not in _LABELS}
    known = [field.name for field in dataclasses.fields(Attack) if field.name not in (*_LABELS, "origin")]
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}; an attack has {', '.join(known)}")
        changes[key] = _field(f"{where}: {key}", key, value, resolve)
    if "category" not in changes and changes:
        changes["category"] = base.category
    return dataclasses.replace(base, **changes)


def _field(where: str, key: str, value: object, resolve: Callable[[object], object]) -> object:
    if key in _LISTS:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_part(f"{where}[{i}]", PARTS[key], item, resolve) for i, item in enumerate(items))
    if key in PARTS:
        return None if value is None and key in ("variance", "refine") else _part(where, PARTS[key], value, resolve)
    if key == "category":
        return _typed(where, value, Category, resolve)
    return _typed(where, value, typing.get_type_hints(Attack)[key], resolve)


def _part(where: str, known: dict[str, type], value: object, resolve: Callable[[object], object]) -> object:
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
    return _build(f"{where}.{name}", known[str(name)], {} if settings is None else settings, resolve)


def _build(where: str, kind: type, settings: object, resolve: Callable[[object], object]) -> object:
    if not isinstance(settings, Mapping):
        raise UserError(f"{where}: expected settings as a mapping, not {settings!r}")
    fields = [field.name for field in dataclasses.fields(kind)]
    hints = typing.get_type_hints(kind, localns={"Attack": Attack})  # ila names it without importing it
    values = {}
    for key, value in settings.items():
        if key not in fields:
            listed = f"it has {', '.join(fields)}" if fields else "it has none"
            raise UserError(f"{where}: unknown setting {key!r}{did_you_mean(str(key), fields)}; {listed}")
        values[key] = _typed(f"{where}.{key}", value, hints[key], resolve)
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _typed(where: str, value: object, hint: Any, resolve: Callable[[object], object]) -> Any:
    """Return `value` as the annotation wants it: integers pass for floats, lists for tuples, nothing else changes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"{where}: expected one of {', '.join(map(str, arguments))}, not {value!r}")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _typed(where, value, next(a for a in arguments if a is not type(None)), resolve)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, not {value!r}")
        return tuple(_typed(f"{where}[{i}]", item, arguments[0], resolve) for i, item in enumerate(value))
    if hint is Attack:
        return resolve(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"{where}: expected {hint.__name__}, not {value!r}")
