"""Jobs, and which part of a suite to run; imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.suites.suite import AttackItem, Suite
from zoo.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Job:
    """One substitute x attack x seed."""

    substitute: str
    attack: str
    seed: int


@dataclass(frozen=True)
class Selection:
    """Which part of a suite to run; empty means all of it."""

    attacks: tuple[str | Mapping[str, Any], ...] = ()
    """Names, or mappings with a name of their own that say how an attack is composed."""
    substitutes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def jobs(self, suite: Suite) -> list[Job]:
        """Return the jobs of the selection, substitutes outermost, so that each is loaded once.

        Raises:
            UserError: a substitute or target that the suite does not have, or a negative seed.
        """
        for name in self.targets:
            if name not in suite.target_names:
                near = did_you_mean(name, suite.target_names)
                raise UserError(f"suite {suite.name} has no target {name!r}{near}")
        substitutes = [suite.substitute(n).name for n in self.substitutes] or [s.name for s in suite.substitutes]
        attacks = [a if isinstance(a, str) else str(a["name"]) for a in self.attacks] or suite.attack_names
        seeds = self.seeds or suite.seeds
        if min(seeds) < 0:
            raise UserError(f"seeds are whole numbers from 0 up, not {min(seeds)}")
        return [Job(s, a, seed) for s in substitutes for a in attacks for seed in seeds]

    def bring(self, suite: Suite) -> tuple[Selection, Suite]:
        """Give every attack the one name and place that it has wherever the suite is run.

        An alias becomes the name of its attack, a path an absolute one. Attacks named by where they come from
        (file.py:Class, torchattacks:CLASS) get an id and join the suite, and so do composed ones.

        Raises:
            UserError: the id is another attack's.
        """
        suite = _settled(suite)
        chosen: list[str] = []
        for given in self.attacks:
            if not isinstance(given, str):
                item = {**given, "use": _anchored(given["use"])} if isinstance(given.get("use"), str) else dict(given)
                suite = _joined(suite, item)
                chosen.append(item["name"])
                continue
            spec = given if given in suite.attack_names else _canonical(_anchored(given))
            name = attack_id(spec) if ":" in spec else spec
            composed = {"name": name, "use": spec}
            if name != spec and composed not in suite.attacks:
                if name in suite.attack_names:
                    raise UserError(f"{spec} would be called {name!r}, which suite {suite.name} has; rename the class")
                suite = suite.model_copy(update={"attacks": (*suite.attacks, composed)})
            chosen.append(name)
        return replace(self, attacks=tuple(dict.fromkeys(chosen))), suite


def _joined(suite: Suite, item: dict[str, Any]) -> Suite:
    """Return the suite with a composed attack, which keeps the name that it has there."""
    name = item.get("name")
    if not isinstance(name, str):
        raise UserError(f"an attack composed of parts needs a name of its own, such as {{name: my-attack, ...}}, not {item}")
    if item in suite.attacks:
        return suite
    if name in suite.attack_names:
        raise UserError(f"suite {suite.name} has another attack of the name {name!r}; give yours another name")
    return Suite.model_validate({**suite.model_dump(), "attacks": (*suite.attacks, item)})


def _settled(suite: Suite) -> Suite:
    """Return a suite whose own attacks have their names instead of aliases, each once, and absolute paths."""
    composed = [name for name, item in zip(suite.attack_names, suite.attacks, strict=True) if not isinstance(item, str)]
    settled: list[AttackItem] = []
    for item in suite.attacks:
        if isinstance(item, str):
            name = _canonical(item)
            item = item if name in composed else name
        elif isinstance(item.get("use"), str):
            item = {**item, "use": _anchored(item["use"])}
        if item not in settled:
            settled.append(item)
    return suite if tuple(settled) == suite.attacks else suite.model_copy(update={"attacks": tuple(settled)})


def _canonical(name: str) -> str:
    from harness.attacks.registry import canonical

    return canonical(name)


def _anchored(spec: str) -> str:
    """Return path/to/attack.py:MyAttack with an absolute path, and anything else as it is."""
    source, _, name = spec.rpartition(":")
    return f"{Path(source).absolute()}:{name}" if source.endswith(".py") else spec


def attack_id(spec: str) -> str:
    """Return the id of an attack named by where it comes from: path/to/attack.py:MyAttack is my-attack."""
    source, _, name = spec.rpartition(":")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    made = re.sub(r"[^a-z0-9]+", "-", words if source.endswith(".py") else f"{source}-{words}").strip("-")
    if not made:
        raise UserError(f"{spec!r} names no attack; write path/to/attack.py:MyAttack or torchattacks:CLASS")
    return made
