"""A made-up suite with made-up outcomes, for tests of rows and boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.records.rows import Clean, Cost, Outcome, Predictions, Provenance, Row

DIGEST = "d" * 64
SHA = "5" * 64


@dataclass(frozen=True)
class Pair:
    substitute: str
    baseline: str
    controls: Sequence[str] = ()


@dataclass(frozen=True)
class Budget:
    norm: str = "linf"
    levels: int = 32


@dataclass(frozen=True)
class Reported:
    substitute: str
    attack: str
    target: str
    asr: float


@dataclass(frozen=True)
class Deployed:
    precise: str | None = None
    emulated: str | None = None


@dataclass(frozen=True)
class Suite:
    name: str = "made-up"
    version: int = 1
    digest: str = DIGEST
    title: str = "A made-up suite"
    budget: Budget = Budget()
    steps: int = 10
    families: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"Full precision": ["a-fp", "b-fp"], "Quantised": ["a-2bit", "b-2bit", "b-4bit"]}
    )
    bits: Mapping[str, int] = field(
        default_factory=lambda: {"a-fp": 32, "b-fp": 32, "a-2bit": 2, "b-2bit": 2, "b-4bit": 4}
    )
    pairs: Sequence[Pair] = (Pair("a-2bit-qaa", "a-2bit", ("a-2bit-ft",)),)
    reported: Sequence[Reported] = ()
    deployed: Mapping[str, Deployed] = field(default_factory=dict)

    def whitebox(self, substitute: str, target: str) -> bool:
        return substitute == target


def provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "package": "0.1.0",
        "commit": None,
        "torch": "2.9",
        "timm": "1.0",
        "python": "3.11",
        "platform": "Linux x86_64",
        "created": "2026-01-31T12:00:00Z",
    }
    return Provenance(**{**values, **changes})


def row(outcomes: Mapping[str, tuple[Sequence[int], Sequence[int]]], /, **changes: Any) -> Row:
    """Make a row from (clean, adversarial) predictions per target."""
    values: dict[str, Any] = {
        "suite": "made-up",
        "suite_version": 1,
        "suite_digest": DIGEST,
        "attack": "mim",
        "composition": "Attack(decay=1.0)",
        "substitute": "a-2bit",
        "substitute_sha256": SHA,
        "seed": 0,
        "images_sha256": SHA,
        "max_level": 32,
        "outcomes": {
            name: Outcome(clean=Predictions(clean), adv=Predictions(adv)) for name, (clean, adv) in outcomes.items()
        },
        "cost": Cost(forwards=10, backwards=10, seconds=1.5, device="cpu"),
        "provenance": provenance(),
    }
    return Row(**{**values, **changes})


def clean_of(predictions: Mapping[str, Sequence[int]], labels: Sequence[int], **changes: Any) -> Clean:
    """Make the clean predictions of the made-up suite."""
    values: dict[str, Any] = {
        "suite": "made-up",
        "suite_version": 1,
        "suite_digest": DIGEST,
        "labels": Predictions(labels),
        "ids": tuple(f"image-{index}" for index in range(len(labels))),
        "predictions": {name: Predictions(values) for name, values in predictions.items()},
    }
    return Clean(**{**values, **changes})


class World:
    """Random but fixed predictions: each target is right on most clean images and wrong on a chosen share when attacked."""

    def __init__(self, suite: Suite | None = None, images: int = 200, seed: int = 0) -> None:
        self.suite = suite or Suite()
        self.random = np.random.default_rng(seed)
        self.labels = self.random.integers(0, 10, images)
        self.targets = list(dict.fromkeys(t for family in self.suite.families.values() for t in family))
        self.predicted = {target: self.shift(self.labels, 0.1) for target in self.targets}
        self.clean = clean_of(self.predicted, self.labels.tolist())

    def shift(self, labels: np.ndarray, share: float) -> np.ndarray:
        """Return labels of which about this share is wrong."""
        return np.where(self.random.random(len(labels)) < share, (labels + 1) % 10, labels)

    def row(self, substitute: str, attack: str = "mim", share: float = 0.4, **changes: Any) -> Row:
        """Make a row whose targets are wrong on about this share of images."""
        limit = changes.get("limit")
        outcomes = {t: (self.predicted[t][:limit], self.shift(self.labels, share)[:limit]) for t in self.targets}
        return row(outcomes, **{"substitute": substitute, "attack": attack, **changes})
