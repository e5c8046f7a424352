"""Jobs, and which part of a suite to run; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from harness.suite import Suite
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

    attacks: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def jobs(self, suite: Suite) -> list[Job]:
        """Return the jobs of the selection, substitutes outermost, so that each is loaded once.

        Raises:
            UserError: a substitute or target that the suite does not have.
        """
        for name in self.targets:
            if name not in suite.target_names:
                near = did_you_mean(name, suite.target_names)
                raise UserError(f"suite {suite.name} has no target {name!r}{near}")
        substitutes = [suite.substitute(n).name for n in self.substitutes] or [s.name for s in suite.substitutes]
        attacks = list(self.attacks) or suite.attack_names
        seeds = self.seeds or suite.seeds
        return [Job(s, a, seed) for s in substitutes for a in attacks for seed in seeds]
