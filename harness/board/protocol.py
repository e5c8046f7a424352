"""What a board needs to know of a suite; `harness.records.pinned.PinnedSuite` offers it, and so can anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class PairView(Protocol):
    """Which rows a substitute is measured against, attack by attack."""

    @property
    def substitute(self) -> str:
        """The substitute whose gain is asked for, such as a QAA net."""

    @property
    def baseline(self) -> str:
        """The substitute that it was made from."""

    @property
    def controls(self) -> Sequence[str]:
        """Substitutes of equal cost that lack the one thing under test."""


class BudgetView(Protocol):
    """How far an adversarial image may be from the clean one."""

    @property
    def norm(self) -> str:
        """Name of the norm, such as linf."""

    @property
    def levels(self) -> int:
        """Largest difference in steps of 1/255."""


class ReportedView(Protocol):
    """One figure of a paper."""

    @property
    def substitute(self) -> str:
        """Model that the images were crafted on."""

    @property
    def attack(self) -> str:
        """Id of the attack."""

    @property
    def target(self) -> str:
        """Model that they were tried on."""

    @property
    def asr(self) -> float:
        """The figure, in percent."""


class DeploymentView(Protocol):
    """The networks among the targets that an integer network in an engine was made of."""

    @property
    def precise(self) -> str | None:
        """Its full-precision network; None where that is no target."""

    @property
    def emulated(self) -> str | None:
        """Its fake-quantised network; None likewise."""


class SuiteView(Protocol):
    """A suite as its board sees it."""

    @property
    def name(self) -> str:
        """Name of the suite."""

    @property
    def version(self) -> int:
        """Version, counted from 1."""

    @property
    def digest(self) -> str:
        """SHA-256 over the suite, its models and its images, in hex."""

    @property
    def title(self) -> str:
        """One line for people."""

    @property
    def budget(self) -> BudgetView:
        """How far an adversarial image may be from the clean one."""

    @property
    def steps(self) -> int:
        """Iterations of an attack that does not say otherwise."""

    @property
    def families(self) -> Mapping[str, Sequence[str]]:
        """Targets by the title of their family, in the order of the board."""

    @property
    def bits(self) -> Mapping[str, int]:
        """Bitwidth of every target, 32 when not quantised."""

    @property
    def deployed(self) -> Mapping[str, DeploymentView]:
        """Targets that run in an engine, with what they were made of; empty where none does."""

    @property
    def pairs(self) -> Sequence[PairView]:
        """Which gains to show."""

    @property
    def reported(self) -> Sequence[ReportedView]:
        """Figures to put beside ours."""

    def whitebox(self, substitute: str, target: str) -> bool:
        """Say whether the substitute knows too much of the target (its weights or architecture) for the cell to be transfer."""
